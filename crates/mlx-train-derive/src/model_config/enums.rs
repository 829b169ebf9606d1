//! An enum: a name in files, or a table with the name as its `kind` where a variant has fields.

use super::{
    attributes::{Attributes, docs, plain_name, refuse_repeated},
    fields::{self, Field},
};
use crate::mistakes::Mistakes;
use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{DataEnum, DeriveInput, Fields};

struct Variant {
    ident: Ident,
    /// The name in files.
    name: String,
    docs: String,
    fields: Vec<Field>,
    is_default: bool,
}

pub(super) fn expand(
    input: &DeriveInput,
    data: &DataEnum,
    config: &TokenStream,
    mistakes: &mut Mistakes,
) -> TokenStream {
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("config")) {
        mistakes
            .at(attribute, "an enum has no attributes; its variants have `default` and `rename`");
    }
    if data.variants.is_empty() {
        mistakes.at(&input.ident, "an enum without variants has no values to choose from; add one");
    }
    let variants = data.variants.iter().map(|variant| parse(variant, config, mistakes));
    let variants: Vec<Variant> = variants.collect();
    refuse_repeated(variants.iter().map(|v| (v.name.clone(), v.ident.span())), mistakes);
    for second in variants.iter().filter(|variant| variant.is_default).skip(1) {
        mistakes.at(&second.ident, "a second variant is `default`; keep one");
    }
    let default = default_impl(input, &variants);
    let field = field_impl(input, &variants, config);
    quote!(#default #field)
}

fn parse(variant: &syn::Variant, config: &TokenStream, mistakes: &mut Mistakes) -> Variant {
    let attributes = Attributes::parse(&variant.attrs, "variant", &["default", "rename"], mistakes);
    let fields = match &variant.fields {
        Fields::Unit => Vec::new(),
        Fields::Named(named) => fields::parse(named, Some("kind"), config, mistakes),
        Fields::Unnamed(unnamed) => {
            mistakes
                .at(unnamed, "the fields of a variant have names; write `Variant { name: Type }`");
            Vec::new()
        }
    };
    Variant {
        name: attributes.name(snake_case(&plain_name(&variant.ident)), mistakes),
        is_default: attributes.flag("default", mistakes).is_some(),
        docs: docs(&variant.attrs),
        ident: variant.ident.clone(),
        fields,
    }
}

/// `GeluTanh` as `gelu_tanh`, `RMSNorm` as `rms_norm`.
fn snake_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (index, character) in characters.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| characters.get(before));
        let after = characters.get(index + 1);
        let starts_word = character.is_uppercase()
            && before.is_some_and(|before| {
                *before != '_'
                    && (!before.is_uppercase() || after.is_some_and(|c| c.is_lowercase()))
            });
        if starts_word {
            snake.push('_');
        }
        snake.extend(character.to_lowercase());
    }
    snake
}

/// `Default`, if a variant is marked; an enum may also derive or implement it by itself.
fn default_impl(input: &DeriveInput, variants: &[Variant]) -> Option<TokenStream> {
    let name = &input.ident;
    let Variant { ident, fields, .. } = variants.iter().find(|variant| variant.is_default)?;
    let fields = fields.iter().map(|Field { ident, default, .. }| quote!(#ident: #default));
    Some(quote! {
        #[automatically_derived]
        impl ::core::default::Default for #name {
            fn default() -> Self {
                Self::#ident { #(#fields),* }
            }
        }
    })
}

fn field_impl(input: &DeriveInput, variants: &[Variant], config: &TokenStream) -> TokenStream {
    let (name, docs) = (&input.ident, docs(&input.attrs));
    let text = name.to_string();
    let schemas = variants.iter().map(|variant| variant.schema(config));
    let nodes = variants.iter().map(|variant| variant.node(config));
    let names =
        variants.iter().map(|Variant { ident, name, .. }| quote!(Self::#ident { .. } => #name));
    let reads = variants.iter().map(|variant| variant.read(config));
    let checks = variants.iter().map(|variant| variant.check(config));
    quote! {
        #[automatically_derived]
        impl #config::ConfigField for #name {
            fn field_type() -> #config::FieldType {
                #config::FieldType::Enum(
                    #config::EnumSchema::new(#text, #docs, ::std::vec![#(#schemas),*]),
                )
            }
            fn to_node(&self) -> #config::Node {
                match self { #(#nodes),* }
            }
            fn read(
                __node: &#config::Node,
                __base: ::core::option::Option<&Self>,
                __reader: &mut #config::Reader,
            ) -> ::core::option::Option<Self> {
                let __name = __base.map(|__base| match __base { #(#names),* });
                #config::read_variant(__node, __name, __reader, |__name, __fields| match __name {
                    #(#reads)*
                    _ => ::core::option::Option::None,
                })
            }
            fn cross_check(&self, __reader: &mut #config::Reader) {
                match self { #(#checks),* }
            }
        }
    }
}

impl Variant {
    fn schema(&self, config: &TokenStream) -> TokenStream {
        let Self { name, docs, fields, .. } = self;
        let fields = fields.iter().map(|field| {
            let default = &field.default;
            field.schema(&quote!(&#default), config)
        });
        quote!(#config::VariantSchema::new(#name, #docs, ::std::vec![#(#fields),*]))
    }

    /// `Self::Variant { field: __0, … }`, which also matches a variant without fields.
    fn pattern(&self) -> TokenStream {
        let (ident, bindings) = (&self.ident, self.bindings());
        let fields = self.fields.iter().map(|field| &field.ident);
        quote!(Self::#ident { #(#fields: #bindings),* })
    }

    fn bindings(&self) -> Vec<Ident> {
        (0..self.fields.len()).map(|index| format_ident!("__{index}")).collect()
    }

    /// What `each` makes of every field and its binding.
    fn each(&self, each: impl Fn(&Field, &TokenStream) -> TokenStream) -> Vec<TokenStream> {
        let bindings = self.bindings().into_iter().map(Ident::into_token_stream);
        self.fields.iter().zip(bindings).map(|(field, binding)| each(field, &binding)).collect()
    }

    fn node(&self, config: &TokenStream) -> TokenStream {
        let (pattern, name) = (self.pattern(), &self.name);
        if self.fields.is_empty() {
            return quote!(#pattern => #config::Node::string(#name));
        }
        let nodes = self.each(|field, binding| field.node(binding, config));
        quote!(#pattern => #config::Node::table([
            ("kind", #config::Node::string(#name)),
            #(#nodes),*
        ]))
    }

    /// Fields that a table leaves out stay as they are in a base of the same variant.
    fn read(&self, config: &TokenStream) -> TokenStream {
        let (pattern, name, bindings) = (self.pattern(), &self.name, self.bindings());
        let Self { ident, fields, .. } = self;
        if fields.is_empty() {
            return quote!(#name => ::core::option::Option::Some(Self::#ident {}),);
        }
        let types = fields.iter().map(|field| &field.ty);
        let defaults = fields.iter().map(|field| &field.default);
        let reads = self.each(|field, binding| field.read(&quote!(&#binding), config));
        quote! {
            #name => {
                let (#(#bindings,)*): (#(#types,)*) = match __base {
                    ::core::option::Option::Some(#pattern) => {
                        (#(::core::clone::Clone::clone(#bindings),)*)
                    }
                    _ => (#(#defaults,)*),
                };
                ::core::option::Option::Some(Self::#ident { #(#reads),* })
            }
        }
    }

    fn check(&self, config: &TokenStream) -> TokenStream {
        let pattern = self.pattern();
        let checks = self.each(|field, binding| field.check(binding, config));
        quote!(#pattern => { #(#checks)* })
    }
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn variants_are_named_in_snake_case() {
        let names = ["Relu", "GeluTanh", "RMSNorm", "Bf16", "A", "Already_Snake"];
        let snake = ["relu", "gelu_tanh", "rms_norm", "bf16", "a", "already_snake"];
        assert_eq!(names.map(snake_case), snake);
    }
}
