//! `#[config(key = value, …)]`, and doc comments.

use crate::mistakes::{Mistakes, suggestion};
use syn::{
    Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Token,
    ext::IdentExt,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

/// The keys of an item's `#[config(…)]` attributes, each at most once.
pub(super) struct Attributes {
    items: Vec<Item>,
    /// Whether one of them was refused, so that what seems to be missing may only be misspelt.
    pub(super) refused: bool,
}

/// `key = value`, or a `key` alone.
struct Item {
    key: Ident,
    value: Option<Expr>,
}

impl Parse for Item {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        let key = Ident::parse_any(input)?;
        let value = input.parse::<Option<Token![=]>>()?.map(|_| input.parse()).transpose()?;
        Ok(Self { key, value })
    }
}

impl Attributes {
    /// Reads what stands on a `what` (a field, say), which knows these keys.
    pub(super) fn parse(
        attributes: &[Attribute],
        what: &str,
        known: &[&str],
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut found: Vec<Item> = Vec::new();
        let mut refused = false;
        for attribute in attributes.iter().filter(|a| a.path().is_ident("config")) {
            let items = attribute.parse_args_with(Punctuated::<Item, Token![,]>::parse_terminated);
            refused |= items.is_err();
            for item in mistakes.keep(items).into_iter().flatten() {
                let key = item.key.to_string();
                if !known.contains(&key.as_str()) {
                    refused = true;
                    let hint = suggestion(&key, known);
                    mistakes.at(&item.key, format!("a {what} has no attribute `{key}`{hint}"));
                } else if found.iter().any(|other| other.key == item.key) {
                    mistakes.at(&item.key, format!("`{key}` is given twice; keep one"));
                } else {
                    found.push(item);
                }
            }
        }
        refused |= found.iter().any(|item| item.key == "default" && item.value.is_none());
        Self { items: found, refused }
    }

    /// The value of `key`, which needs one.
    pub(super) fn value(&self, key: &str, mistakes: &mut Mistakes) -> Option<&Expr> {
        let item = self.items.iter().find(|item| item.key == key)?;
        if item.value.is_none() {
            mistakes.at(&item.key, format!("`{key}` needs a value: `{key} = …`"));
        }
        item.value.as_ref()
    }

    /// Whether `key` is there, which takes no value.
    pub(super) fn flag(&self, key: &str, mistakes: &mut Mistakes) -> Option<&Ident> {
        let item = self.items.iter().find(|item| item.key == key)?;
        if let Some(value) = &item.value {
            mistakes.at(value, format!("`{key}` takes no value here; write it alone"));
        }
        Some(&item.key)
    }

    /// The value of `key`, which has to be the path of a function.
    pub(super) fn function(&self, key: &str, mistakes: &mut Mistakes) -> Option<&Expr> {
        let value = self.value(key, mistakes)?;
        if matches!(value, Expr::Path(_)) {
            return Some(value);
        }
        mistakes.at(value, format!("`{key}` names a function: `{key} = path::to::function`"));
        None
    }

    /// What files call the item: `rename`, or else `own`.
    pub(super) fn name(&self, own: String, mistakes: &mut Mistakes) -> String {
        match self.value("rename", mistakes) {
            None => own,
            Some(Expr::Lit(ExprLit { lit: Lit::Str(name), .. })) => checked_name(name, mistakes),
            Some(other) => {
                mistakes.at(other, "`rename` is a string: `rename = \"name\"`");
                own
            }
        }
    }
}

/// A name has to work in overrides, `key.path=value`.
fn checked_name(name: &LitStr, mistakes: &mut Mistakes) -> String {
    let text = name.value();
    let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || !text.chars().all(allowed) {
        mistakes.at(name, "a name has letters, digits, `_` and `-` only");
    }
    text
}

/// The doc comment, without the space after `///`.
pub(super) fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    // Not `lines`, which has none for the empty line that ends a paragraph.
    let text = lines.collect::<Vec<_>>().join("\n");
    let lines = text.split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The name of a field in files: `type` for `r#type`.
pub(super) fn plain_name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// Names that files could not tell apart.
pub(super) fn refuse_repeated(
    names: impl Iterator<Item = (String, proc_macro2::Span)>,
    mistakes: &mut Mistakes,
) {
    let mut seen = std::collections::HashSet::new();
    for (name, span) in names {
        if !seen.insert(name.clone()) {
            let message = format!("the name `{name}` is taken already; rename one");
            mistakes.push(syn::Error::new(span, message));
        }
    }
}
