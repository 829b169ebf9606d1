//! The fields of a struct or of an enum's variant.

use super::{
    attributes::{Attributes, docs, plain_name, refuse_repeated},
    default::{convert, default_of_type},
    range::range_of,
};
use crate::mistakes::Mistakes;
use proc_macro2::TokenStream;
use quote::quote_spanned;
use syn::{FieldsNamed, Ident, Type, spanned::Spanned};

/// A field, checked.
pub(super) struct Field {
    pub(super) ident: Ident,
    pub(super) ty: Type,
    /// The key in files.
    pub(super) name: String,
    docs: String,
    /// An expression of type `ty`.
    pub(super) default: TokenStream,
    /// An expression of type `Option<Range>`.
    range: TokenStream,
}

/// The fields, and every mistake in them; `reserved` is a key that has a meaning of its own.
pub(super) fn parse(
    fields: &FieldsNamed,
    reserved: Option<&str>,
    config: &TokenStream,
    mistakes: &mut Mistakes,
) -> Vec<Field> {
    let parsed = fields.named.iter().filter_map(|field| parse_field(field, config, mistakes));
    let parsed: Vec<Field> = parsed.collect();
    refuse_repeated(parsed.iter().map(|field| (field.name.clone(), field.ident.span())), mistakes);
    for field in parsed.iter().filter(|field| Some(field.name.as_str()) == reserved) {
        mistakes.at(
            &field.ident,
            format!("the key `{}` has a meaning of its own here; rename this field", field.name),
        );
    }
    parsed
}

fn parse_field(field: &syn::Field, config: &TokenStream, mistakes: &mut Mistakes) -> Option<Field> {
    let ident = field.ident.clone()?;
    let known = ["default", "range", "rename"];
    let attributes = Attributes::parse(&field.attrs, "field", &known, mistakes);
    let name = attributes.name(plain_name(&ident), mistakes);
    let given = attributes.value("default", mistakes);
    let range = attributes.value("range", mistakes);
    let default = match given {
        Some(given) => Some(convert(&field.ty, given, mistakes)),
        None => default_of_type(&field.ty),
    };
    if default.is_none() && !attributes.refused {
        let message = format!(
            "`{ident}` has no obvious default; add `#[config(default = …)]`, or make it an `Option`"
        );
        mistakes.at(&ident, message);
    }
    Some(Field {
        default: default.unwrap_or_default(),
        range: range_of(&ident, &field.ty, range, given, config, mistakes),
        ty: field.ty.clone(),
        docs: docs(&field.attrs),
        ident,
        name,
    })
}

/// Every use of a field's type is spanned at it, and of one trait: what cannot be a field is told once.
impl Field {
    /// An expression of type `FieldSchema`; `default` is one of the type `&ty`.
    pub(super) fn schema(&self, default: &TokenStream, config: &TokenStream) -> TokenStream {
        let Self { ty, name, docs, range, .. } = self;
        quote_spanned! {ty.span()=>
            <#ty as #config::DerivedField>::describe_field(#name, #docs, #default, #range)
        }
    }

    /// `("name", node)` of a value of the type `&ty`.
    pub(super) fn node(&self, value: &TokenStream, config: &TokenStream) -> TokenStream {
        let Self { ty, name, .. } = self;
        quote_spanned!(ty.span()=> (#name, <#ty as #config::DerivedField>::field_to_node(#value)))
    }

    /// `ident: value` as read from `__fields`; `base` is of the type `&ty`.
    pub(super) fn read(&self, base: &TokenStream, config: &TokenStream) -> TokenStream {
        let Self { ident, ty, name, .. } = self;
        quote_spanned! {ty.span()=>
            #ident: <#ty as #config::DerivedField>::read_field(__fields, #name, #base)
        }
    }

    /// A statement that checks a value of the type `&ty`.
    pub(super) fn check(&self, value: &TokenStream, config: &TokenStream) -> TokenStream {
        let Self { ty, name, .. } = self;
        quote_spanned! {ty.span()=>
            <#ty as #config::DerivedField>::check_field(#value, #name, __reader);
        }
    }
}
