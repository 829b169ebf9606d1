//! `#[derive(ModelConfig)]`: lists the fields; `mlx_train_core::config` reads, checks and describes them.

mod attributes;
mod default;
mod enums;
mod fields;
mod range;
mod structs;
mod types;

use crate::{mistakes::Mistakes, root::root};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput};

pub(crate) fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let config = root().map(|root| quote!(#root::__private::config))?;
    let mut mistakes = Mistakes::default();
    if !input.generics.params.is_empty() {
        let message = "a config cannot be generic; name the types of its fields";
        mistakes.at(&input.generics, message);
    }
    let expanded = match &input.data {
        Data::Struct(data) => structs::expand(&input, data, &config, &mut mistakes),
        Data::Enum(data) => enums::expand(&input, data, &config, &mut mistakes),
        Data::Union(data) => {
            mistakes.at(data.union_token, "a config is a struct, or an enum for a field of one");
            TokenStream::new()
        }
    };
    mistakes.finish()?;
    Ok(quote!(const _: () = { #expanded };))
}
