//! Muon for hidden matrices, AdamW for everything else.

use super::{
    AdamW, Coefficients, Muon, NamePatterns, Optimizer, Parameter, arithmetic::scalar,
    error::check_rate, state::foreign,
};
use crate::Result;
use mlx_rs::Array;

/// Muon for the hidden matrices of a network, AdamW for its embeddings, output layer, norms and
/// biases.
///
/// A parameter goes to AdamW when it has fewer than two axes, or when its name matches one of the
/// patterns of [`MuonWithAdamW::adamw_parameters`], which are [`MuonWithAdamW::ADAMW_PARAMETERS`] at
/// first. A name says nothing of the first and the last matrix of a plain network: name those
/// yourself. Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"
/// (2024), <https://kellerjordan.github.io/posts/muon/>, section "Empirical considerations".
///
/// ```
/// use mlx_train_core::optim::{AdamW, Muon, MuonWithAdamW};
/// let optimizer = MuonWithAdamW::new(Muon::default(), AdamW::default())
///     .adamw_learning_rate_scale(0.15)?
///     .adamw_parameters(["layers.0.*", "layers.7.*"])?;
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MuonWithAdamW {
    muon: Muon,
    adamw: AdamW,
    adamw_learning_rate_scale: f64,
    adamw_parameters: NamePatterns,
}

impl MuonWithAdamW {
    /// What embeddings and output layers are called here, in Hugging Face's models and in GPT-2.
    pub const ADAMW_PARAMETERS: [&str; 7] =
        ["*embed*", "*wte*", "*wpe*", "*lm_head*", "head.*", "*.head.*", "*classifier*"];

    /// Both optimizers at the same learning rate, split by shape and name.
    pub fn new(muon: Muon, adamw: AdamW) -> Self {
        // The patterns are constants that are globs, so an error would be ours; without them the
        // shapes alone would split.
        let adamw_parameters = NamePatterns::new(Self::ADAMW_PARAMETERS).unwrap_or_default();
        Self { muon, adamw, adamw_learning_rate_scale: 1.0, adamw_parameters }
    }

    /// Sets which matrices AdamW updates, in the place of [`MuonWithAdamW::ADAMW_PARAMETERS`].
    ///
    /// A pattern need not match: the same list may serve several models.
    ///
    /// # Errors
    /// [`OptimError::Pattern`](super::OptimError::Pattern) for one that is no glob.
    pub fn adamw_parameters<S: AsRef<str>>(
        self,
        patterns: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        Ok(Self { adamw_parameters: NamePatterns::new(patterns)?, ..self })
    }

    /// Sets what the learning rate is multiplied by for AdamW, whose steps need a smaller one.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless `scale` is finite and at least 0.
    pub fn adamw_learning_rate_scale(self, scale: f64) -> Result<Self> {
        let scale = check_rate("the scale of AdamW's learning rate", scale)?;
        Ok(Self { adamw_learning_rate_scale: scale, ..self })
    }

    /// Whether Muon updates a parameter, and not AdamW.
    pub fn is_hidden_matrix(&self, parameter: Parameter<'_>) -> bool {
        parameter.value.ndim() >= 2 && !self.adamw_parameters.matches(parameter.name)
    }

    fn optimizer_of(&self, parameter: Parameter<'_>) -> &dyn Optimizer {
        if self.is_hidden_matrix(parameter) { &self.muon } else { &self.adamw }
    }
}

impl Optimizer for MuonWithAdamW {
    fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str] {
        self.optimizer_of(parameter).state_names(parameter)
    }

    fn updates_parts(&self, parameter: Parameter<'_>) -> bool {
        self.optimizer_of(parameter).updates_parts(parameter)
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        self.optimizer_of(parameter).init(parameter)
    }

    /// Those of Muon, then those of AdamW.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients> {
        let scaled = learning_rate.multiply(scalar(self.adamw_learning_rate_scale))?;
        let muon = self.muon.coefficients(learning_rate, step)?;
        let adamw = self.adamw.coefficients(&scaled, step)?;
        Ok(Coefficients::of_parts(vec![muon, adamw]))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let [muon, adamw] = coefficients.parts() else {
            return Err(foreign(parameter.name, "MuonWithAdamW"));
        };
        let part = if self.is_hidden_matrix(parameter) { muon } else { adamw };
        self.optimizer_of(parameter).update(parameter, gradient, state, part)
    }
}
