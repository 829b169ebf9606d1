//! `range = 1..`: checked as far as its tokens say, against the type and the default.

use super::{
    default::{as_float, is_some, literal, plain},
    types::{Known, innermost},
};
use crate::mistakes::Mistakes;
use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Expr, ExprRange, Lit, RangeLimits, Type, spanned::Spanned};

/// `Option<Range>` of the field `name`.
pub(super) fn range_of(
    name: &syn::Ident,
    ty: &Type,
    given: Option<&Expr>,
    default: Option<&Expr>,
    config: &TokenStream,
    mistakes: &mut Mistakes,
) -> TokenStream {
    let none = quote!(::core::option::Option::None);
    let Some(given) = given else { return none };
    let Expr::Range(range) = plain(given) else {
        mistakes.at(given, "a range is written `1..`, `0.0..1.0`, `0..=10` or `..5`");
        return none;
    };
    if range.start.is_none() && range.end.is_none() {
        mistakes.at(range, "this range has no bounds; remove it, or write `1..` or `..5`");
        return none;
    }
    let element = innermost(ty);
    check_type(name, element, range, mistakes);
    check_bounds(range, default, mistakes);
    let (start, end) =
        (bound(element, range.start.as_deref()), bound(element, range.end.as_deref()));
    let inclusive = matches!(range.limits, RangeLimits::Closed(_));
    quote_spanned! {given.span()=>
        ::core::option::Option::Some(#config::Range::new::<#element>(#start, #end, #inclusive))
    }
}

fn check_type(name: &syn::Ident, element: &Type, range: &ExprRange, mistakes: &mut Mistakes) {
    match Known::of(element) {
        Known::Boolean | Known::String | Known::Path => {
            let ty = element.to_token_stream();
            let message =
                format!("`{name}` is of type `{ty}`, which has no range; only numbers have one");
            mistakes.at(range, message);
        }
        known @ (Known::Integer(_) | Known::Float) => {
            for bound in [&range.start, &range.end].into_iter().flatten() {
                let fits = match literal(bound) {
                    Some((_, Lit::Int(_))) | None => true,
                    Some((_, Lit::Float(_))) => matches!(known, Known::Float),
                    Some(_) => false,
                };
                if !fits {
                    let (ty, expects) = (element.to_token_stream(), known.expects());
                    let message =
                        format!("`{name}` is of type `{ty}`; bound its range by {expects}");
                    mistakes.at(bound, message);
                }
            }
        }
        _ => {}
    }
}

fn check_bounds(range: &ExprRange, default: Option<&Expr>, mistakes: &mut Mistakes) {
    let number = |bound: &Option<Box<Expr>>| bound.as_deref().and_then(number);
    let (min, max) = (number(&range.start), number(&range.end));
    let closed = matches!(range.limits, RangeLimits::Closed(_));
    let below = |value: f64, max: f64| if closed { value <= max } else { value < max };
    if let (Some(min), Some(max)) = (min, max)
        && !below(min, max)
    {
        mistakes.at(range, "this range is empty; its end has to be larger than its start");
        return;
    }
    for (expr, value) in default.map(numbers).unwrap_or_default() {
        if min.is_some_and(|min| value < min) || max.is_some_and(|max| !below(value, max)) {
            let range = range.to_token_stream().to_string().replace(' ', "");
            mistakes.at(expr, format!("this default is not in the range `{range}` of its field"));
        }
    }
}

fn bound(element: &Type, bound: Option<&Expr>) -> TokenStream {
    match bound {
        None => quote!(::core::option::Option::None),
        Some(bound) => {
            let value = match Known::of(element) {
                Known::Float => as_float(bound),
                _ => bound.to_token_stream(),
            };
            quote!(::core::option::Option::Some(#value))
        }
    }
}

/// The literal numbers in a default, also those of a list or in `Some`.
fn numbers(default: &Expr) -> Vec<(&Expr, f64)> {
    match plain(default) {
        Expr::Array(array) => array.elems.iter().flat_map(numbers).collect(),
        Expr::Call(call) if is_some(&call.func) => call.args.iter().flat_map(numbers).collect(),
        other => number(other).map(|value| (other, value)).into_iter().collect(),
    }
}

fn number(expr: &Expr) -> Option<f64> {
    let (negative, literal) = literal(expr)?;
    let magnitude: f64 = match literal {
        Lit::Int(int) => int.base10_digits().parse().ok()?,
        Lit::Float(float) => float.base10_digits().parse().ok()?,
        _ => return None,
    };
    Some(if negative { -magnitude } else { magnitude })
}
