//! Named configs: `preset = "tiny"` in a document replaces the defaults.

use super::suggest::{hint, shorten};

/// A config with a name, for `#[config(presets = …)]`.
///
/// The function that lists them builds its configs in code: reading a config of the same type there
/// would ask for the list again, without end.
///
/// ```
/// # use mlx_train_core::config::{Format, ModelConfig, Preset};
/// #[derive(Debug, Clone, ModelConfig)]
/// #[config(presets = presets)]
/// struct Sizes {
///     #[config(default = 768)]
///     hidden_size: i32,
///     #[config(default = 12)]
///     num_layers: i32,
/// }
///
/// fn presets() -> Vec<Preset<Sizes>> {
///     vec![Preset::new("tiny", Sizes { hidden_size: 64, num_layers: 2 })]
/// }
///
/// let sizes = Sizes::parse("preset = 'tiny'\nnum_layers = 3", Format::Toml)?;
/// assert_eq!((sizes.hidden_size, sizes.num_layers), (64, 3));
/// # Ok::<(), mlx_train_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Preset<C> {
    /// What a document writes after `preset =`.
    pub name: &'static str,
    /// What it stands for.
    pub config: C,
}

impl<C> Preset<C> {
    /// A `config` with a `name`.
    pub fn new(name: &'static str, config: C) -> Self {
        Self { name, config }
    }
}

impl<C> From<(&'static str, C)> for Preset<C> {
    fn from((name, config): (&'static str, C)) -> Self {
        Self::new(name, config)
    }
}

/// What a function of `#[config(presets = …)]` returns, as a list.
#[doc(hidden)]
pub fn collect_presets<C, I>(presets: I) -> Vec<Preset<C>>
where
    I: IntoIterator<Item: Into<Preset<C>>>,
{
    presets.into_iter().map(Into::into).collect()
}

/// The config of the preset `name`, or why there is none.
pub(crate) fn find<C: Clone>(name: &str, presets: &[Preset<C>]) -> Result<C, String> {
    presets
        .iter()
        .find(|preset| preset.name == name)
        .map(|preset| preset.config.clone())
        .ok_or_else(|| {
            let known: Vec<&str> = presets.iter().map(|preset| preset.name).collect();
            format!("no preset is named `{}`{}", shorten(name), hint(name, "presets", &known))
        })
}
