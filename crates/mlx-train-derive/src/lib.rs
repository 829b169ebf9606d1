//! The macros of mlx-train.
//!
//! They parse and expand, nothing else: what the expansions call lives in `mlx-train-core`.

mod mistakes;
mod module_parameters;
mod root;

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

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(syn::Error::into_compile_error).into()
}
