//! A struct: its `Default`, and the implementations of a config.

use super::{
    attributes::{Attributes, docs},
    fields::{self, Field},
};
use crate::mistakes::Mistakes;
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{DataStruct, DeriveInput, Expr, Fields, spanned::Spanned};

pub(super) fn expand(
    input: &DeriveInput,
    data: &DataStruct,
    config: &TokenStream,
    mistakes: &mut Mistakes,
) -> TokenStream {
    let attributes = Attributes::parse(&input.attrs, "config", &["validate", "presets"], mistakes);
    let validate = attributes.function("validate", mistakes);
    let presets = attributes.function("presets", mistakes);
    let reserved = presets.map(|_| "preset");
    let fields = match &data.fields {
        Fields::Named(named) => fields::parse(named, reserved, config, mistakes),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(unnamed) => {
            mistakes.at(
                unnamed,
                "the fields of a config have names; write `struct Config { name: Type }`",
            );
            Vec::new()
        }
    };
    let (default, field, model) = (
        default_impl(input, &fields),
        field_impl(input, &fields, validate, config),
        model_impl(input, &fields, presets, config),
    );
    let sources = source_impls(input, config);
    quote!(#default #field #model #sources)
}

fn default_impl(input: &DeriveInput, fields: &[Field]) -> TokenStream {
    let name = &input.ident;
    let fields = fields.iter().map(|Field { ident, default, .. }| quote!(#ident: #default));
    quote! {
        #[automatically_derived]
        impl ::core::default::Default for #name {
            fn default() -> Self {
                Self { #(#fields),* }
            }
        }
    }
}

fn field_impl(
    input: &DeriveInput,
    fields: &[Field],
    validate: Option<&Expr>,
    config: &TokenStream,
) -> TokenStream {
    let name = &input.ident;
    let of_self = |Field { ident, .. }: &Field| quote!(&self.#ident);
    let nodes = fields.iter().map(|field| field.node(&of_self(field), config));
    let checks = fields.iter().map(|field| field.check(&of_self(field), config));
    let reads = fields.iter().map(|field| {
        let ident = &field.ident;
        field.read(&quote!(&__base.#ident), config)
    });
    // A pointer, so that the message about a wrong function names both signatures.
    let validate = validate.map(|validate| {
        quote_spanned! {validate.span()=>
            let __check: fn(&Self) -> ::core::result::Result<(), _> = #validate;
            __reader.check_result(__check(self));
        }
    });
    quote! {
        #[automatically_derived]
        impl #config::ConfigField for #name {
            fn field_type() -> #config::FieldType {
                #config::FieldType::Config(__schema())
            }
            fn to_node(&self) -> #config::Node {
                #config::Node::table([#(#nodes),*])
            }
            fn read(
                __node: &#config::Node,
                __base: ::core::option::Option<&Self>,
                __reader: &mut #config::Reader,
            ) -> ::core::option::Option<Self> {
                #config::read_struct(__node, __base, __reader, |__fields, __base: &Self| {
                    Self { #(#reads),* }
                })
            }
            fn cross_check(&self, __reader: &mut #config::Reader) {
                #(#checks)*
                #validate
            }
        }
    }
}

fn model_impl(
    input: &DeriveInput,
    fields: &[Field],
    presets: Option<&Expr>,
    config: &TokenStream,
) -> TokenStream {
    let (name, docs) = (&input.ident, docs(&input.attrs));
    let text = name.to_string();
    let schemas = fields.iter().map(|field| {
        let ident = &field.ident;
        field.schema(&quote!(&__default.#ident), config)
    });
    let presets = presets.map_or_else(
        || quote!(::std::vec::Vec::new()),
        |presets| quote_spanned!(presets.span()=> #config::collect_presets::<#name, _>(#presets())),
    );
    quote! {
        fn __schema() -> #config::Schema {
            let __default = <#name as ::core::default::Default>::default();
            #config::Schema::new(#text, #docs, ::std::vec![#(#schemas),*], &__presets())
        }

        fn __presets() -> ::std::vec::Vec<#config::Preset<#name>> {
            #presets
        }

        #[automatically_derived]
        impl #config::ModelConfig for #name {
            fn schema() -> #config::Schema {
                __schema()
            }
            fn presets() -> ::std::vec::Vec<#config::Preset<Self>> {
                __presets()
            }
        }
    }
}

/// For the type and references to it: a blanket implementation would have to rule out that
/// somebody implements `ModelConfig` for a reference.
fn source_impls(input: &DeriveInput, config: &TokenStream) -> TokenStream {
    let name = &input.ident;
    quote! {
        #[automatically_derived]
        impl #config::IntoConfigSource for #name {
            fn into_config_source(self) -> #config::ConfigSource {
                #config::ConfigSource::typed(self)
            }
        }
        #[automatically_derived]
        impl #config::IntoConfigSource for &#name {
            fn into_config_source(self) -> #config::ConfigSource {
                #config::ConfigSource::typed_ref(self)
            }
        }
    }
}
