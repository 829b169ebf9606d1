//! `#[derive(Shard)]`: hands the fields that `#[shard]` marks to `mlx_train_core::distributed::Sharding`.

use crate::{
    mistakes::{Mistakes, suggestion},
    module_parameters::{Used, key_of},
    root::root,
};
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use std::collections::BTreeSet;
use syn::{
    Attribute, Data, DeriveInput, Field, Generics, Ident, Member, Meta, Token, Type,
    WherePredicate, parse_quote, punctuated::Punctuated, spanned::Spanned,
};

/// The ways that an attribute may name, each of which is a type in `mlx_train_core::distributed::way`.
const WAYS: [Way; 5] = [
    Way { name: "columns", ty: "Columns", is_of_parameters: true },
    Way { name: "rows", ty: "Rows", is_of_parameters: true },
    Way { name: "vocabulary", ty: "Vocabulary", is_of_parameters: true },
    Way { name: "alternating", ty: "Alternating", is_of_parameters: false },
    Way { name: "divide", ty: "Divide", is_of_parameters: false },
];

#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    ty: &'static str,
    /// Whether it splits parameters and nothing else.
    is_of_parameters: bool,
}

pub(crate) fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let mut mistakes = Mistakes::default();
    let fields = shard_fields(&input, &mut mistakes);
    mistakes.finish()?;

    let distributed = {
        let root = root()?;
        quote!(#root::__private::distributed)
    };
    let name = &input.ident;
    let generics = with_bounds(&input.generics, &fields, &distributed);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let each = fields.iter().map(|Sharded { member, ty, key, way }| {
        // Named with the type, so that the message about a type that cannot be split so points at it.
        let function = match way.as_ref().map(|way| way.path(&distributed)) {
            None => quote_spanned!(ty.span()=> <#ty as #distributed::ShardField>::shard_field),
            Some(way) => {
                quote_spanned!(ty.span()=> <#ty as #distributed::SplitField<#way>>::split_field)
            }
        };
        quote!(sharding.field(#key, |sharding| #function(&mut self.#member, sharding));)
    });
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #distributed::Shard for #name #type_generics #where_clause {
            fn shard(&mut self, sharding: &mut #distributed::Sharding<'_>) {
                #(#each)*
            }
        }
    })
}

/// A field that `#[shard]` marks.
struct Sharded<'a> {
    member: Member,
    ty: &'a Type,
    key: String,
    /// `None` for a field that says itself how it is split.
    way: Option<Way>,
}

impl Way {
    fn path(self, distributed: &TokenStream) -> TokenStream {
        let ty = Ident::new(self.ty, Span::call_site());
        quote!(#distributed::way::#ty)
    }
}

fn shard_fields<'a>(input: &'a DeriveInput, mistakes: &mut Mistakes) -> Vec<Sharded<'a>> {
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("shard")) {
        mistakes.at(attribute, "`#[shard]` marks a field, not the struct");
    }
    let Data::Struct(data) = &input.data else {
        let kind = if matches!(input.data, Data::Enum(_)) { "an enum" } else { "a union" };
        mistakes.at(
            &input.ident,
            format!("`Shard` can be derived for a struct, not for {kind}; implement it by hand"),
        );
        return Vec::new();
    };
    if !data.fields.iter().any(|field| attribute_of(field, "shard").is_some()) {
        mistakes.at(
            &input.ident,
            "nothing of this struct is split; mark fields with `#[shard(columns)]`, `#[shard(rows)]`, \
             `#[shard(vocabulary)]`, `#[shard(divide)]` or `#[shard]`, or remove the derive",
        );
    }
    let members = data.fields.iter().zip(data.fields.members());
    members.filter_map(|(field, member)| shard_field(field, member, mistakes)).collect()
}

fn shard_field<'a>(
    field: &'a Field,
    member: Member,
    mistakes: &mut Mistakes,
) -> Option<Sharded<'a>> {
    let attribute = attribute_of(field, "shard")?;
    for again in field.attrs.iter().filter(|it| it.path().is_ident("shard")).skip(1) {
        mistakes.at(again, "this field has a `#[shard]` already; a field is split in one way");
    }
    let way = mistakes.keep(way(attribute))?;
    let param = attribute_of(field, "param");
    if let (None, Some(Way { name, is_of_parameters: true, .. })) = (param, way) {
        mistakes.at(
            attribute,
            format!(
                "`{name}` splits parameters, and this field has none; mark it with `#[param]`, too"
            ),
        );
    }
    // What is wrong with the key is told by `ModuleParameters`.
    let (key, _) = key_of(param, &member, field.span(), &mut Mistakes::default());
    Some(Sharded { key, member, ty: &field.ty, way })
}

fn attribute_of<'a>(field: &'a Field, name: &str) -> Option<&'a Attribute> {
    field.attrs.iter().find(|attribute| attribute.path().is_ident(name))
}

/// The way that an attribute says, if it says one.
fn way(attribute: &Attribute) -> syn::Result<Option<Way>> {
    let known = WAYS.map(|way| way.name);
    let list = match &attribute.meta {
        Meta::Path(_) => return Ok(None),
        Meta::List(list) => list,
        Meta::NameValue(_) => {
            return Err(syn::Error::new_spanned(
                attribute,
                "write the way in parentheses: `#[shard(columns)]`",
            ));
        }
    };
    let ways = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)?;
    let mut ways = ways.iter();
    let Some(way) = ways.next() else {
        let message = format!("name a way, one of `{}`, or write `#[shard]`", known.join("`, `"));
        return Err(syn::Error::new_spanned(attribute, message));
    };
    if let Some(again) = ways.next() {
        return Err(syn::Error::new_spanned(again, "a field is split in one way; remove this one"));
    }
    let name = way.to_token_stream().to_string();
    let known_way = WAYS.into_iter().find(|way| way.name == name);
    let unknown = || format!("`#[shard]` has no key `{name}`{}", suggestion(&name, &known));
    known_way.map(Some).ok_or_else(|| syn::Error::new_spanned(way, unknown()))
}

/// `T: Shard`, or `T: SplitBy<Way>`, for each type parameter `T` that occurs in a field; as a bound on the whole type
/// where one on `T` says nothing.
fn with_bounds(generics: &Generics, fields: &[Sharded], distributed: &TokenStream) -> Generics {
    let names: BTreeSet<Ident> = generics.type_params().map(|param| param.ident.clone()).collect();
    let mut bounds: Vec<WherePredicate> = Vec::new();
    for Sharded { ty, way, .. } in fields {
        let bound = match way.map(|way| way.path(distributed)) {
            None => quote!(#distributed::Shard),
            Some(way) => quote!(#distributed::SplitBy<#way>),
        };
        let used = Used::by(ty.to_token_stream(), &names);
        if used.projected {
            bounds.push(parse_quote!(#ty: #bound));
        } else {
            let of = |name: &Ident| -> WherePredicate { parse_quote!(#name: #bound) };
            bounds.extend(used.names.iter().map(of));
        }
    }
    let mut generics = generics.clone();
    if !bounds.is_empty() {
        generics.make_where_clause().predicates.extend(bounds);
    }
    generics
}
