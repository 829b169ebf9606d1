//! The path that expansions name the engine by.
//!
//! Users depend on the facade `mlx-train`, maybe renamed; the workspace's own crates on
//! `mlx-train-core`. Both have the same `__private` module, so an expansion needs one path only.

use proc_macro_crate::{Error, FoundCrate, crate_name};
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

/// `::mlx_train` if the crate that is being compiled depends on it (under whatever name), else
/// `::mlx_train_core`.
///
/// # Errors
/// When the crate depends on neither.
pub(crate) fn root() -> syn::Result<TokenStream> {
    for package in ["mlx-train", "mlx-train-core"] {
        let name = match crate_name(package) {
            Ok(FoundCrate::Name(name)) => name,
            // Both crates declare `extern crate self` under their own name.
            Ok(FoundCrate::Itself) => package.replace('-', "_"),
            Err(Error::CrateNotFound { .. }) => continue,
            // Built without Cargo: there is no manifest to read, so the facade keeps its own name.
            Err(_) => "mlx_train".to_owned(),
        };
        let name = Ident::new(&name, Span::call_site());
        return Ok(quote!(::#name));
    }
    Err(syn::Error::new(
        Span::call_site(),
        "this macro needs the crate `mlx-train`; run `cargo add mlx-train`, or add it to [dependencies]",
    ))
}
