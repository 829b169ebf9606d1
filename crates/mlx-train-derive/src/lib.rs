//! The macros of mlx-train.
//!
//! They parse and expand, nothing else: what the expansions call lives in `mlx-train-core`.

mod assert_shape;
mod mistakes;
mod model_config;
mod module_parameters;
mod register_model;
mod root;
mod shard;

use proc_macro::TokenStream;

/// Implements mlx-rs's `ModuleParameters` for a struct from its `#[param]` fields.
///
/// A field is an array (`Param<Array>`, `Param<Option<Array>>`), a module, or a `Vec`, `Option` or
/// `Box` of modules. Its name, or what `#[param(rename = "…")]` says, is its part of the parameter's
/// key: `layers.0.attention.q_proj.weight`. A renamed key may hold dots.
#[proc_macro_derive(ModuleParameters, attributes(param))]
pub fn module_parameters(item: TokenStream) -> TokenStream {
    expand(module_parameters::expand(item.into()))
}

/// Implements `Shard` for a struct, so that its layers can be divided among ranks: `#[shard]` on a field says that it
/// is `Shard` itself, and `#[shard(columns)]`, `#[shard(rows)]`, `#[shard(vocabulary)]`, `#[shard(alternating)]` or
/// `#[shard(divide)]` how it is split.
///
/// The trait says what each way means and which types have it. Names of parameters are those of `#[param]`.
#[proc_macro_derive(Shard, attributes(shard, param))]
pub fn shard(item: TokenStream) -> TokenStream {
    expand(shard::expand(item.into()))
}

/// Implements `ModelConfig` and `Default` for a struct, and makes an enum usable as its field.
///
/// | on | attribute | meaning |
/// | --- | --- | --- |
/// | struct | `validate = path` | `fn(&Self) -> Result<(), impl Display>`: a check across fields |
/// | struct | `presets = path` | `fn() -> Vec<Preset<Self>>`: what `preset = "name"` in a file starts from |
/// | field | `default = …` | its default; lists as `[1, 2]`, strings as `"x"` |
/// | field | `range = …` | `1..`, `0.0..1.0`, `0..=10`, `..5`: the numbers that it, or its elements, may be |
/// | variant | `default` | the variant of a generated `Default` |
/// | field, variant | `rename = "…"` | its name in files; variants are in `snake_case` without |
///
/// Doc comments become the docs in schemas, help texts and generated files. Numbers, strings and
/// paths need a `default`. An enum whose variants have (named) fields is a table with the name of the variant as
/// its `kind`: `{ kind = "cosine", warmup = 100 }`. A config must not contain itself.
#[proc_macro_derive(ModelConfig, attributes(config))]
pub fn model_config(item: TokenStream) -> TokenStream {
    expand(model_config::expand(item.into()))
}

/// Checks the shapes of arrays and binds the names of their axes.
///
/// `assert_shape!(x, [batch, seq, {hidden_size}]);` or, for several arrays,
/// `assert_shape!(x: [batch, seq], y: [batch]);`. It is documented where the engine re-exports it.
#[proc_macro]
pub fn assert_shape(input: TokenStream) -> TokenStream {
    expand(assert_shape::expand(input.into()))
}

/// Registers a model, so that every binary that links its crate builds it by name.
///
/// `#[register_model("name")]`, and optionally `aliases = ["…"]`, `tags = ["…"]` and
/// `description = "…"` (the doc comment of the struct if left out). The struct implements
/// `BaseModel` and `FromConfig`. Names are lowercase ASCII letters, digits, `_`, `-` and `.`, and
/// start with a letter.
#[proc_macro_attribute]
pub fn register_model(arguments: TokenStream, item: TokenStream) -> TokenStream {
    register_model::expand(arguments.into(), item.into()).into()
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(syn::Error::into_compile_error).into()
}
