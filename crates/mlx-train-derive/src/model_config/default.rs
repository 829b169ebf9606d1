//! `default = …`: checked as far as its tokens say, and turned into the type of the field.

use super::types::Known;
use crate::mistakes::Mistakes;
use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Expr, ExprLit, Lit, LitFloat, Type, UnOp, spanned::Spanned};

/// The default of a field whose type is one by itself; numbers, strings and paths are none.
pub(super) fn default_of_type(ty: &Type) -> Option<TokenStream> {
    match Known::of(ty) {
        Known::Optional(_) => Some(quote!(::core::option::Option::None)),
        Known::List(_) => Some(quote!(::std::vec::Vec::new())),
        Known::Boolean => Some(quote!(false)),
        Known::Other => {
            Some(quote_spanned!(ty.span()=> <#ty as ::core::default::Default>::default()))
        }
        _ => None,
    }
}

/// An expression as a value of `ty`: literals are written as in the file, without `.to_owned()` or `Some`.
pub(super) fn convert(ty: &Type, expr: &Expr, mistakes: &mut Mistakes) -> TokenStream {
    let known = Known::of(ty);
    match (&known, plain(expr)) {
        (Known::Optional(inner), Expr::Lit(_) | Expr::Array(_) | Expr::Unary(_)) => {
            let value = convert(inner, expr, mistakes);
            quote!(::core::option::Option::Some(#value))
        }
        (Known::Optional(inner), Expr::Call(call))
            if is_some(&call.func) && call.args.len() == 1 =>
        {
            let values = call.args.iter().map(|value| convert(inner, value, mistakes));
            let values: Vec<_> = values.collect();
            quote!(::core::option::Option::Some(#(#values)*))
        }
        (Known::List(inner), Expr::Array(array)) => {
            let items = array.elems.iter().map(|item| convert(inner, item, mistakes));
            let items: Vec<_> = items.collect();
            quote!(::std::vec![#(#items),*])
        }
        (Known::Array(inner), Expr::Array(array)) => {
            let items = array.elems.iter().map(|item| convert(inner, item, mistakes));
            let items: Vec<_> = items.collect();
            quote_spanned!(expr.span()=> [#(#items),*])
        }
        (_, Expr::Array(_)) if !matches!(known, Known::Other | Known::Optional(_)) => {
            refuse(ty, expr, "a list", &known, mistakes)
        }
        (_, plain) => match literal(plain) {
            Some((negative, literal)) => convert_literal(ty, expr, negative, literal, mistakes),
            None => expr.to_token_stream(),
        },
    }
}

fn convert_literal(
    ty: &Type,
    expr: &Expr,
    negative: bool,
    literal: &Lit,
    mistakes: &mut Mistakes,
) -> TokenStream {
    let known = Known::of(ty);
    match (&known, literal) {
        (Known::Integer(name), Lit::Int(_)) if negative && name.starts_with('u') => {
            refuse(ty, expr, "negative", &Known::Integer(name.clone()), mistakes)
        }
        (Known::Float, Lit::Int(_)) => as_float(expr),
        (Known::String, Lit::Str(_)) if !negative => quote!(::std::string::String::from(#expr)),
        (Known::Path, Lit::Str(_)) if !negative => quote!(::std::path::PathBuf::from(#expr)),
        (Known::Integer(_), Lit::Int(_))
        | (Known::Float, Lit::Float(_))
        | (Known::Boolean, Lit::Bool(_))
        | (Known::Other | Known::Optional(_), _) => expr.to_token_stream(),
        _ => refuse(ty, expr, what(literal), &known, mistakes),
    }
}

fn refuse(
    ty: &Type,
    expr: &Expr,
    found: &str,
    known: &Known,
    mistakes: &mut Mistakes,
) -> TokenStream {
    let ty =
        ty.to_token_stream().to_string().replace(" <", "<").replace("< ", "<").replace(" >", ">");
    let expects = known.expects();
    mistakes.at(expr, format!("this default is {found}, but the field is `{ty}`; give {expects}"));
    TokenStream::new()
}

/// An integer literal, maybe negative, as a float literal: `default = 1` for an `f32`.
pub(super) fn as_float(expr: &Expr) -> TokenStream {
    match plain(expr) {
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) if int.suffix().is_empty() => {
            let text = format!("{}.0", int.base10_digits());
            LitFloat::new(&text, int.span()).to_token_stream()
        }
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            let (op, value) = (&unary.op, as_float(&unary.expr));
            quote!(#op #value)
        }
        other => other.to_token_stream(),
    }
}

/// A literal and whether a minus stands before it.
pub(super) fn literal(expr: &Expr) -> Option<(bool, &Lit)> {
    match plain(expr) {
        Expr::Lit(ExprLit { lit, .. }) => Some((false, lit)),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => match literal(&unary.expr) {
            Some((false, lit @ (Lit::Int(_) | Lit::Float(_)))) => Some((true, lit)),
            _ => None,
        },
        _ => None,
    }
}

/// Without the invisible group that a `macro_rules!` puts around an expression.
pub(super) fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(group) => plain(&group.expr),
        other => other,
    }
}

/// `Some` of whatever path.
pub(super) fn is_some(function: &Expr) -> bool {
    matches!(function, Expr::Path(path)
        if path.path.segments.last().is_some_and(|last| last.ident == "Some"))
}

fn what(literal: &Lit) -> &'static str {
    match literal {
        Lit::Str(_) => "a string",
        Lit::Int(_) => "an integer",
        Lit::Float(_) => "a float",
        Lit::Bool(_) => "a boolean",
        Lit::Char(_) => "a character",
        _ => "of another type",
    }
}
