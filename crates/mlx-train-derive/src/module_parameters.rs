//! `#[derive(ModuleParameters)]`: lists the `#[param]` fields; `mlx_train_core::parameters` does the rest.

use crate::{
    mistakes::{Mistakes, suggestion},
    root::root,
};
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use std::collections::BTreeSet;
use syn::{
    Attribute, Data, DeriveInput, Expr, ExprLit, Field, Generics, Ident, Lit, LitStr, Member, Meta,
    Type, WherePredicate, ext::IdentExt, parse_quote, spanned::Spanned,
};

pub(crate) fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let mut mistakes = Mistakes::default();
    let fields = param_fields(&input, &mut mistakes);
    refuse_overlapping_keys(&fields, &mut mistakes);
    mistakes.finish()?;

    let root = root()?;
    let mlx = quote!(#root::__private::mlx_rs::module);
    let parameters = quote!(#root::__private::parameters);
    let name = &input.ident;
    let generics = with_bounds(&input.generics, &fields, &mlx);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let list = |reference: TokenStream, erased: TokenStream| {
        let fields = fields.iter().map(|Param { member, ty, key, .. }| {
            // Named with the type, so that the message about a type that cannot be one points at it.
            quote!((#key, <#ty as #parameters::ParameterField>::#erased(#reference self.#member)))
        });
        quote!(::std::vec![#(#fields),*])
    };
    let fields_ref = list(quote!(&), quote!(erased));
    let fields_mut = list(quote!(&mut), quote!(erased_mut));

    Ok(quote! {
        const _: () = {
            #[automatically_derived]
            impl #impl_generics #parameters::ParameterFields for #name #type_generics #where_clause {
                fn fields(&self) -> ::std::vec::Vec<(&'static str, &dyn #mlx::Parameter)> {
                    #fields_ref
                }
                fn fields_mut(
                    &mut self,
                ) -> ::std::vec::Vec<(&'static str, &mut dyn #mlx::Parameter)> {
                    #fields_mut
                }
            }

            #[automatically_derived]
            impl #impl_generics #mlx::ModuleParameters for #name #type_generics #where_clause {
                fn num_parameters(&self) -> usize {
                    #parameters::count(self)
                }
                fn parameters(&self) -> #mlx::ModuleParamRef<'_> {
                    #parameters::all(self)
                }
                fn parameters_mut(&mut self) -> #mlx::ModuleParamMut<'_> {
                    #parameters::all_mut(self)
                }
                fn trainable_parameters(&self) -> #mlx::ModuleParamRef<'_> {
                    #parameters::trainable(self)
                }
                fn freeze_parameters(&mut self, recursive: bool) {
                    #parameters::set_frozen(self, true, recursive);
                }
                fn unfreeze_parameters(&mut self, recursive: bool) {
                    #parameters::set_frozen(self, false, recursive);
                }
                fn all_frozen(&self) -> ::core::option::Option<bool> {
                    #parameters::all_frozen(self)
                }
                fn any_frozen(&self) -> ::core::option::Option<bool> {
                    #parameters::any_frozen(self)
                }
            }
        };
    })
}

/// A field that `#[param]` marks.
struct Param<'a> {
    member: Member,
    ty: &'a Type,
    key: String,
    /// Where the key stands in the source.
    key_span: Span,
}

fn param_fields<'a>(input: &'a DeriveInput, mistakes: &mut Mistakes) -> Vec<Param<'a>> {
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("param")) {
        mistakes.at(attribute, "`#[param]` marks a field, not the struct");
    }
    let Data::Struct(data) = &input.data else {
        let kind = if matches!(input.data, Data::Enum(_)) { "an enum" } else { "a union" };
        mistakes.at(
            &input.ident,
            format!(
                "`ModuleParameters` can be derived for a struct, not for {kind}, whose parameters would have no fixed names; \
                 hold the alternatives in `Option` fields or in a `Box<dyn BaseModel>`"
            ),
        );
        return Vec::new();
    };
    let members = data.fields.iter().zip(data.fields.members());
    members.filter_map(|(field, member)| param_field(field, member, mistakes)).collect()
}

fn param_field<'a>(field: &'a Field, member: Member, mistakes: &mut Mistakes) -> Option<Param<'a>> {
    let mut attributes = field.attrs.iter().filter(|attribute| attribute.path().is_ident("param"));
    let attribute = attributes.next()?;
    for again in attributes {
        mistakes.at(again, "this field has a `#[param]` already; write one");
    }
    let (key, key_span) = key_of(Some(attribute), &member, attribute.span(), mistakes);
    Some(Param { member, ty: &field.ty, key, key_span })
}

/// The key of a field with this `#[param]`, and where it stands in the source; that of a field without a name is its
/// position, which stands at `unnamed`.
pub(crate) fn key_of(
    param: Option<&Attribute>,
    member: &Member,
    unnamed: Span,
    mistakes: &mut Mistakes,
) -> (String, Span) {
    match param.and_then(|attribute| rename(attribute, mistakes)) {
        Some(rename) => (rename.value(), rename.span()),
        None => match member {
            Member::Named(name) => (name.unraw().to_string(), name.span()),
            Member::Unnamed(index) => (index.index.to_string(), unnamed),
        },
    }
}

/// What `#[param(rename = "…")]` says.
fn rename(attribute: &Attribute, mistakes: &mut Mistakes) -> Option<LitStr> {
    if let Meta::NameValue(_) = attribute.meta {
        mistakes.at(attribute, "write `#[param(rename = \"…\")]` to give a parameter another key");
    }
    let Meta::List(list) = &attribute.meta else { return None };
    let mut rename = None;
    let parsed = list.parse_nested_meta(|meta| {
        if !meta.path.is_ident("rename") {
            let key = meta.path.to_token_stream().to_string();
            let suggestion = suggestion(&key, &["rename"]);
            return Err(meta.error(format!("`#[param]` has no key `{key}`{suggestion}")));
        }
        if rename.is_some() {
            return Err(meta.error("`rename` is given twice; a parameter has one key"));
        }
        rename = Some(key(meta.value()?.parse()?)?);
        Ok(())
    });
    mistakes.keep(parsed);
    rename
}

/// The key that `rename` gives.
fn key(value: Expr) -> syn::Result<LitStr> {
    let Expr::Lit(ExprLit { lit: Lit::Str(key), .. }) = value else {
        return Err(syn::Error::new_spanned(
            value,
            "`rename` must be a string literal, such as \"lm_head\"",
        ));
    };
    match malformed(&key.value()) {
        None => Ok(key),
        Some(problem) => {
            let message = format!("{:?} cannot be the key of a parameter: {problem}", key.value());
            Err(syn::Error::new_spanned(key, message))
        }
    }
}

fn malformed(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("it is empty")
    } else if key.split('.').any(str::is_empty) {
        Some("a dot must stand between two names")
    } else if key.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some("it has white space in it")
    } else {
        None
    }
}

/// Two arrays under one key would be saved as one.
fn refuse_overlapping_keys(fields: &[Param], mistakes: &mut Mistakes) {
    for (index, later) in fields.iter().enumerate() {
        for earlier in &fields[..index] {
            let (a, b) = (&earlier.key, &later.key);
            let prefix =
                |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('.'));
            let message = if a == b {
                format!("two parameters have the key `{a}`; rename one of them")
            } else if prefix(a, b) || prefix(b, a) {
                format!(
                    "the keys `{a}` and `{b}` overlap: an array inside of one could have the name of the other; rename one of them"
                )
            } else {
                continue;
            };
            mistakes.push(syn::Error::new(later.key_span, message));
        }
    }
}

/// `T: ModuleParameters` for each type parameter `T` that occurs in a `#[param]` field.
///
/// A bound on the field's whole type would be nearer to the truth, but a type that contains itself
/// (`Option<Box<Self>>`) could never satisfy it. So only `Param<T>` and `T::Associated`, where a
/// bound on `T` says nothing, get one.
fn with_bounds(generics: &Generics, fields: &[Param], mlx: &TokenStream) -> Generics {
    let names: BTreeSet<Ident> = generics.type_params().map(|param| param.ident.clone()).collect();
    let mut bounds: Vec<WherePredicate> = Vec::new();
    for Param { ty, .. } in fields {
        let used = Used::by(ty.to_token_stream(), &names);
        if used.names.is_empty() {
            continue;
        }
        if used.projected || is_param(ty) {
            bounds.push(parse_quote!(#ty: #mlx::Parameter));
        } else {
            bounds.extend(
                used.names
                    .iter()
                    .map(|name| -> WherePredicate { parse_quote!(#name: #mlx::ModuleParameters) }),
            );
        }
    }
    let mut generics = generics.clone();
    if !bounds.is_empty() {
        generics.make_where_clause().predicates.extend(bounds);
    }
    generics
}

/// Whether a type is mlx-rs's `Param<…>`.
fn is_param(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Param"))
}

/// The type parameters in a type.
#[derive(Default)]
pub(crate) struct Used {
    pub(crate) names: BTreeSet<Ident>,
    /// Whether one is only there for an associated type: `T::Block`, `<T as Model>::Block`.
    pub(crate) projected: bool,
}

impl Used {
    pub(crate) fn by(ty: TokenStream, names: &BTreeSet<Ident>) -> Self {
        let mut used = Self::default();
        used.walk(ty, names);
        used
    }

    fn walk(&mut self, ty: TokenStream, names: &BTreeSet<Ident>) {
        let mut tokens = ty.into_iter().peekable();
        // `module::T` is another type of the same name.
        let mut in_path = false;
        while let Some(token) = tokens.next() {
            match &token {
                TokenTree::Group(group) => self.walk(group.stream(), names),
                TokenTree::Ident(ident) if !in_path && names.contains(ident) => {
                    self.names.insert(ident.clone());
                    self.projected |= match tokens.peek() {
                        Some(TokenTree::Punct(next)) => next.as_char() == ':',
                        Some(TokenTree::Ident(next)) => next == "as",
                        _ => false,
                    };
                }
                _ => {}
            }
            in_path = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ':');
        }
    }
}
