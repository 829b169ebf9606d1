//! Optimizers and groups of parameters from a config.

use super::{
    Adafactor, AdamW, Group, Lion, Muon, MuonWithAdamW, OptimError, Optimizer, ParameterGroups,
    Sgd, StateFormat, WeightDecay,
};
use crate::{Result, config::ModelConfig};

/// How gradients become updates.
///
/// ```
/// use mlx_train_core::optim::{GroupConfig, OptimizerConfig};
/// let frozen = GroupConfig { parameters: vec!["embed.*".into()], frozen: true, ..Default::default() };
/// let optimizer = OptimizerConfig::default().build(&[frozen])?;
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay and bias correction.
    #[config(default, rename = "adamw")]
    AdamW {
        /// How much of the running mean of the gradient a step keeps.
        #[config(default = 0.9, range = 0.0..1.0)]
        beta1: f64,
        /// How much of the running mean of the squared gradient a step keeps.
        #[config(default = 0.999, range = 0.0..1.0)]
        beta2: f64,
        /// What is added to the root of the second moment.
        #[config(default = 1e-8, range = 1e-30..1.0)]
        epsilon: f64,
        /// The decoupled weight decay of matrices.
        #[config(default = 0.01, range = 0.0..)]
        weight_decay: f64,
        /// How the running means are kept between steps.
        state: StateFormat,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// How much of the velocity a step keeps; 0 is plain gradient descent.
        #[config(default = 0.0, range = 0.0..1.0)]
        momentum: f64,
        /// Which share of the gradient the velocity does not take up.
        #[config(default = 0.0, range = 0.0..1.0)]
        dampening: f64,
        /// Whether the momentum looks ahead, as Nesterov's does.
        nesterov: bool,
        /// The weight decay of matrices, as an L2 penalty.
        #[config(default = 0.0, range = 0.0..)]
        weight_decay: f64,
    },
    /// Steps of one size, in the direction of the sign of a momentum.
    Lion {
        /// How much of the momentum is in a step's direction.
        #[config(default = 0.9, range = 0.0..1.0)]
        beta1: f64,
        /// How much of the momentum a step keeps.
        #[config(default = 0.99, range = 0.0..1.0)]
        beta2: f64,
        /// The decoupled weight decay of matrices.
        #[config(default = 0.0, range = 0.0..)]
        weight_decay: f64,
        /// How the momentum is kept between steps.
        state: StateFormat,
    },
    /// Adam with a second moment of rows and columns, which takes little memory.
    Adafactor {
        /// What is added to the squared gradient.
        #[config(default = 1e-30, range = 1e-37..1.0)]
        epsilon1: f64,
        /// The smallest scale that a parameter gives its steps.
        #[config(default = 1e-3, range = 1e-30..)]
        epsilon2: f64,
        /// The root mean square above which an update is scaled down.
        #[config(default = 1.0, range = 1e-30..)]
        clip_threshold: f64,
        /// The power of the step with which the second moment forgets.
        #[config(default = -0.8, range = -1.0..0.0)]
        decay_rate: f64,
        /// How much of a running mean of the updates a step keeps; null has no such mean.
        #[config(range = 0.0..1.0)]
        momentum: Option<f64>,
        /// Whether the root mean square of a parameter scales its steps.
        #[config(default = true)]
        scale_parameter: bool,
        /// Whether steps are `min(0.01, 1/sqrt(step))`, and the learning rate is ignored.
        relative_step: bool,
        /// Whether relative steps rise from 1e-6 at first.
        warmup_init: bool,
        /// The decoupled weight decay of matrices.
        #[config(default = 0.0, range = 0.0..)]
        weight_decay: f64,
    },
    /// Momentum made orthogonal for hidden matrices; AdamW for everything else.
    Muon {
        /// How much of the velocity a step keeps.
        #[config(default = 0.95, range = 0.0..1.0)]
        momentum: f64,
        /// Whether the momentum looks ahead, as Nesterov's does.
        #[config(default = true)]
        nesterov: bool,
        /// How many steps the Newton-Schulz iteration takes.
        #[config(default = 5, range = 1..=100)]
        iterations: usize,
        /// The weight decay of matrices, in Muon and in AdamW.
        #[config(default = 0.01, range = 0.0..)]
        weight_decay: f64,
        /// Whether Muon's decay shrinks the weights themselves, and is not a part of the gradient.
        decoupled_decay: bool,
        /// Which matrices AdamW updates, as patterns of their names; vectors are always its own.
        #[config(default = MuonWithAdamW::ADAMW_PARAMETERS.map(String::from).to_vec())]
        adamw_parameters: Vec<String>,
        /// What the learning rate is multiplied by for AdamW.
        #[config(default = 1.0, range = 0.0..)]
        adamw_learning_rate_scale: f64,
        /// How much of the running mean of the gradient a step of AdamW keeps.
        #[config(default = 0.9, range = 0.0..1.0)]
        adamw_beta1: f64,
        /// How much of the running mean of the squared gradient a step of AdamW keeps.
        #[config(default = 0.999, range = 0.0..1.0)]
        adamw_beta2: f64,
        /// What AdamW adds to the root of the second moment.
        #[config(default = 1e-8, range = 1e-30..1.0)]
        adamw_epsilon: f64,
    },
}

/// Some parameters, by name, and how they are trained.
///
/// A parameter belongs to the first group that matches its name. What a group does not say is as for
/// the parameters that belong to none.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct GroupConfig {
    /// Patterns of their names, such as `*.bias`: `*` any characters, `?` one, `{a,b}` a or b.
    pub parameters: Vec<String>,
    /// What the learning rate is multiplied by.
    #[config(default = 1.0, range = 0.0..)]
    pub learning_rate_scale: f64,
    /// The weight decay of matrices; null is that of the optimizer.
    #[config(range = 0.0..)]
    pub weight_decay: Option<f64>,
    /// Whether vectors (norms and biases) decay too.
    pub decay_vectors: bool,
    /// The norm to which the gradients of the group are clipped together; null does not clip them.
    #[config(range = 1e-30..)]
    pub max_grad_norm: Option<f64>,
    /// Whether they stay as they are.
    pub frozen: bool,
}

impl OptimizerConfig {
    /// The optimizer that the settings describe, with groups of parameters that differ from it.
    ///
    /// # Errors
    /// [`OptimError`] when a setting is out of range, settings exclude one another, or a pattern is
    /// no glob.
    pub fn build(&self, groups: &[GroupConfig]) -> Result<Box<dyn Optimizer>> {
        let optimizer = self.with_decay(WeightDecay::matrices(self.weight_decay())?)?;
        if groups.is_empty() {
            return Ok(optimizer);
        }
        let mut all = ParameterGroups::new(optimizer);
        for group in groups {
            all = all.group(self.group(group)?);
        }
        Ok(Box::new(all))
    }

    fn group(&self, config: &GroupConfig) -> Result<Group> {
        let GroupConfig { parameters, learning_rate_scale, weight_decay, .. } = config;
        if parameters.is_empty() {
            return Err(conflict(
                "a group of parameters has no pattern, so it is empty; name some, as in \
                 parameters = [\"*.bias\"]",
            ));
        }
        let is_relative = matches!(self, Self::Adafactor { relative_step: true, .. });
        #[expect(clippy::float_cmp, reason = "exactly 1 changes nothing")]
        let is_scaled = *learning_rate_scale != 1.0;
        if is_relative && is_scaled {
            return Err(conflict(&format!(
                "learning_rate_scale of a group is {learning_rate_scale}, and adafactor ignores \
                 the learning rate with relative_step; turn one of them off"
            )));
        }
        let mut group = Group::new(parameters)?.learning_rate_scale(*learning_rate_scale)?;
        if weight_decay.is_some() || config.decay_vectors {
            let rate = weight_decay.unwrap_or(self.weight_decay());
            let decay = if config.decay_vectors {
                WeightDecay::everything(rate)?
            } else {
                WeightDecay::matrices(rate)?
            };
            group = group.optimizer(self.with_decay(decay)?);
        }
        if let Some(max_norm) = config.max_grad_norm {
            group = group.max_grad_norm(max_norm)?;
        }
        Ok(if config.frozen { group.frozen() } else { group })
    }

    fn weight_decay(&self) -> f64 {
        match *self {
            Self::AdamW { weight_decay, .. }
            | Self::Sgd { weight_decay, .. }
            | Self::Lion { weight_decay, .. }
            | Self::Adafactor { weight_decay, .. }
            | Self::Muon { weight_decay, .. } => weight_decay,
        }
    }

    /// The optimizer with this weight decay in the place of its own.
    fn with_decay(&self, decay: WeightDecay) -> Result<Box<dyn Optimizer>> {
        Ok(match *self {
            Self::AdamW { beta1, beta2, epsilon, state, .. } => {
                Box::new(adamw(beta1, beta2, epsilon, decay)?.state(state))
            }
            Self::Sgd { momentum, dampening, nesterov, .. } => {
                let sgd = Sgd::default().momentum(momentum)?.dampening(dampening)?;
                let sgd = if nesterov { sgd.nesterov(momentum)? } else { sgd };
                Box::new(sgd.weight_decay(decay))
            }
            Self::Lion { beta1, beta2, state, .. } => {
                Box::new(Lion::default().betas(beta1, beta2)?.weight_decay(decay).state(state))
            }
            Self::Adafactor {
                epsilon1,
                epsilon2,
                clip_threshold,
                decay_rate,
                momentum,
                scale_parameter,
                relative_step,
                warmup_init,
                ..
            } => {
                if warmup_init && !relative_step {
                    return Err(conflict(
                        "warmup_init of adafactor acts on relative steps alone; set \
                         relative_step = true, or warmup_steps of the schedule",
                    ));
                }
                let mut adafactor = Adafactor::default()
                    .epsilons(epsilon1, epsilon2)?
                    .clip_threshold(clip_threshold)?
                    .decay_rate(decay_rate)?
                    .scale_parameter(scale_parameter)
                    .weight_decay(decay);
                if let Some(momentum) = momentum {
                    adafactor = adafactor.momentum(momentum)?;
                }
                if relative_step {
                    adafactor = adafactor.relative_step(warmup_init);
                }
                Box::new(adafactor)
            }
            Self::Muon {
                momentum,
                nesterov,
                iterations,
                decoupled_decay,
                ref adamw_parameters,
                adamw_learning_rate_scale,
                adamw_beta1,
                adamw_beta2,
                adamw_epsilon,
                ..
            } => {
                let muon = Muon::default()
                    .momentum(momentum, nesterov)?
                    .iterations(iterations)?
                    .weight_decay(decay)
                    .decoupled_decay(decoupled_decay);
                let adamw = adamw(adamw_beta1, adamw_beta2, adamw_epsilon, decay)?;
                Box::new(
                    MuonWithAdamW::new(muon, adamw)
                        .adamw_parameters(adamw_parameters)?
                        .adamw_learning_rate_scale(adamw_learning_rate_scale)?,
                )
            }
        })
    }
}

fn adamw(beta1: f64, beta2: f64, epsilon: f64, decay: WeightDecay) -> Result<AdamW> {
    Ok(AdamW::default().betas(beta1, beta2)?.epsilon(epsilon)?.weight_decay(decay))
}

fn conflict(message: &str) -> crate::Error {
    OptimError::Conflict(message.to_owned()).into()
}
