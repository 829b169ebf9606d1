//! `assert_shape!`: patterns of axes become slice patterns and comparisons.
//!
//! What holds is decided by the generated code, without allocation; why something does not hold is
//! found by `mlx_train_core::shape` from a description of the patterns.

use crate::{mistakes::Mistakes, root::root};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use std::collections::HashSet;
use syn::{
    BinOp, Expr, ExprBinary, ExprLit, ExprRange, Lifetime, Lit, LitInt, Stmt, Token, bracketed,
    ext::IdentExt,
    parse::{Parse, ParseStream, Parser},
    punctuated::Punctuated,
};

/// `x, [axes]` or `x: [axes], y: [axes], …` as statements that bind the names among the axes.
pub(crate) fn expand(input: TokenStream) -> syn::Result<TokenStream> {
    let assertions = parse_assertions.parse2(input)?;
    let mut mistakes = Mistakes::default();
    let plan = Plan::new(&assertions, &mut mistakes);
    mistakes.finish()?;
    Ok(plan.into_tokens(&assertions, &root()?))
}

/// One array and the axes that it must have.
struct Assertion {
    array: Expr,
    axes: Vec<Axis>,
}

enum Axis {
    /// `_`: any size.
    Any,
    /// `..`: any number of axes.
    Rest(Expr),
    /// Factors that multiply to the size; a plain axis has one.
    Product(Vec<Factor>, Expr),
}

enum Factor {
    Name(Ident),
    Literal(LitInt),
    Value(Expr),
}

impl Axis {
    /// The name, if the axis is one and nothing else.
    fn plain_name(&self) -> Option<&Ident> {
        match self {
            Self::Product(factors, _) => match factors.as_slice() {
                [Factor::Name(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }
}

fn parse_assertions(input: ParseStream<'_>) -> syn::Result<Vec<Assertion>> {
    let array: Expr = input.parse()?;
    if input.peek(Token![,]) {
        input.parse::<Token![,]>()?;
        let assertion = Assertion { array, axes: parse_axes(input)? };
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input
                .error("for several arrays write `assert_shape!(x: [batch, seq], y: [batch])`"));
        }
        return Ok(vec![assertion]);
    }
    let mut array = Some(array);
    let mut assertions = Vec::new();
    while let Some(first) = array.take() {
        if !input.peek(Token![:]) {
            return Err(input.error("expected axes: `assert_shape!(x, [batch, seq])`"));
        }
        input.parse::<Token![:]>()?;
        assertions.push(Assertion { array: first, axes: parse_axes(input)? });
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
            array = (!input.is_empty()).then(|| input.parse()).transpose()?;
        }
    }
    Ok(assertions)
}

fn parse_axes(input: ParseStream<'_>) -> syn::Result<Vec<Axis>> {
    let axes;
    bracketed!(axes in input);
    let axes = Punctuated::<Axis, Token![,]>::parse_terminated(&axes)?;
    let mut rests = axes.iter().filter_map(|axis| match axis {
        Axis::Rest(tokens) => Some(tokens),
        _ => None,
    });
    match rests.nth(1) {
        Some(second) => {
            Err(syn::Error::new_spanned(second, "`..` may stand for the axes of one place only"))
        }
        None => Ok(axes.into_iter().collect()),
    }
}

impl Parse for Axis {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let axis: Expr = input.parse()?;
        match &axis {
            Expr::Infer(_) => Ok(Self::Any),
            Expr::Range(ExprRange { start: None, end: None, .. }) => Ok(Self::Rest(axis)),
            _ => {
                let mut factors = Vec::new();
                push_factors(&axis, &mut factors)?;
                Ok(Self::Product(factors, axis))
            }
        }
    }
}

fn push_factors(axis: &Expr, factors: &mut Vec<Factor>) -> syn::Result<()> {
    match axis {
        Expr::Binary(ExprBinary { left, op: BinOp::Mul(_), right, .. }) => {
            push_factors(left, factors)?;
            push_factors(right, factors)?;
        }
        Expr::Paren(inner) => push_factors(&inner.expr, factors)?,
        Expr::Group(inner) => push_factors(&inner.expr, factors)?,
        Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => {
            literal.base10_parse::<i32>()?;
            factors.push(Factor::Literal(literal.clone()));
        }
        Expr::Path(path) => match path.path.get_ident() {
            Some(name) if name == "self" => return Err(no_axis(axis)),
            Some(name) if !name.to_string().starts_with(char::is_uppercase) => {
                factors.push(Factor::Name(name.clone()));
            }
            // A constant.
            _ => factors.push(Factor::Value(axis.clone())),
        },
        Expr::Field(_) | Expr::MethodCall(_) | Expr::Call(_) | Expr::Index(_) => {
            factors.push(Factor::Value(axis.clone()));
        }
        Expr::Block(block) if block.attrs.is_empty() && block.label.is_none() => {
            // Without its braces, which the compiler would call needless where it is passed on.
            let value = match block.block.stmts.as_slice() {
                [Stmt::Expr(value, None)] => value.clone(),
                _ => axis.clone(),
            };
            factors.push(Factor::Value(value));
        }
        _ => return Err(no_axis(axis)),
    }
    Ok(())
}

fn no_axis(axis: &Expr) -> syn::Error {
    syn::Error::new_spanned(
        axis,
        "an axis is a name to bind, an integer, a field or call, `{any expression}`, a product of \
         these, `_` for any size, or `..` for any axes",
    )
}

/// Where each name gets its size from, and what has to be compared.
struct Plan<'a> {
    /// `batch`, … in the order in which they are bound.
    names: Vec<&'a Ident>,
    /// In order: later steps use what earlier ones have bound.
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    /// The name takes the size of an axis.
    Bind { name: &'a Ident, at: (usize, usize) },
    /// The name takes the size of an axis divided by the other factors.
    Divide { name: &'a Ident, at: (usize, usize), others: Vec<&'a Factor> },
    /// The axis must have the size.
    Compare { at: (usize, usize), factors: &'a [Factor] },
}

impl<'a> Plan<'a> {
    fn new(assertions: &'a [Assertion], mistakes: &mut Mistakes) -> Self {
        let axes = || {
            assertions.iter().enumerate().flat_map(|(array, assertion)| {
                assertion.axes.iter().enumerate().map(move |(axis, tokens)| ((array, axis), tokens))
            })
        };
        let mut plan = Self { names: Vec::new(), steps: Vec::new() };
        let mut used = HashSet::new();
        for (at, axis) in axes() {
            if let Some(name) = axis.plain_name().filter(|name| !plan.names.contains(name)) {
                plan.names.push(name);
                plan.steps.push(Step::Bind { name, at });
                used.insert(at);
            }
        }
        // A product with one unknown name binds it, which may leave one in another product.
        loop {
            let num_names = plan.names.len();
            for (at, axis) in axes() {
                let Axis::Product(factors, _) = axis else { continue };
                if let [name] = plan.unknown(factors).as_slice() {
                    let is_other =
                        |factor: &&Factor| !matches!(factor, Factor::Name(n) if n == *name);
                    let others = factors.iter().filter(is_other).collect();
                    plan.steps.push(Step::Divide { name, at, others });
                    plan.names.push(name);
                    used.insert(at);
                }
            }
            if plan.names.len() == num_names {
                break;
            }
        }
        for (at, axis) in axes() {
            let Axis::Product(factors, tokens) = axis else { continue };
            if let [first, ..] = plan.unknown(factors).as_slice() {
                mistakes.at(
                    tokens,
                    format!(
                        "the factors of this product cannot be told apart; name `{first}` as an axis \
                         of its own, or write `{{{first}}}` to use the value of a variable"
                    ),
                );
            } else if !used.contains(&at) {
                plan.steps.push(Step::Compare { at, factors });
            }
        }
        plan
    }

    /// The names among `factors` that nothing has bound, as often as they occur.
    fn unknown(&self, factors: &'a [Factor]) -> Vec<&'a Ident> {
        let names = factors.iter().filter_map(|factor| match factor {
            Factor::Name(name) => Some(name),
            _ => None,
        });
        names.filter(|name| !self.names.contains(name)).collect()
    }

    fn into_tokens(self, assertions: &[Assertion], root: &TokenStream) -> TokenStream {
        let Self { names, steps } = self;
        let shape = quote!(#root::__private::shape);
        let mut values = Values::default();
        let patterns = describe(assertions, &shape, &mut values);
        // Hygienic, so that the user's variables and labels of these names stay what they are.
        let (value_sizes, shapes) = (hygienic("values"), hygienic("shapes"));
        let label = Lifetime::new("'shape", Span::mixed_site());

        let mut checks = quote!(break #label (#(#names,)*););
        for step in steps.iter().rev() {
            checks = match step {
                Step::Bind { name, at } => {
                    let size = size_at(*at);
                    quote!(let #name = *#size; #checks)
                }
                Step::Divide { name, at, others } => {
                    let size = size_at(*at);
                    let factors = values.sizes(others.iter().copied(), &shape, &value_sizes);
                    quote! {
                        if let ::core::option::Option::Some(#name) =
                            #shape::quotient(*#size, &[#(#factors),*])
                        {
                            #checks
                        }
                    }
                }
                Step::Compare { at, factors } => {
                    let size = size_at(*at);
                    let factors = values.sizes(factors.iter(), &shape, &value_sizes);
                    quote!(if #shape::is_product(*#size, &[#(#factors),*]) { #checks })
                }
            };
        }

        let places = assertions.iter().enumerate().map(|(array, assertion)| {
            let places = assertion.axes.iter().enumerate().map(|(axis, tokens)| match tokens {
                Axis::Rest(_) => quote!(..),
                Axis::Any => quote!(_),
                Axis::Product(..) => size_at((array, axis)).into_token_stream(),
            });
            quote!([#(#places),*])
        });
        let arrays = assertions.iter().map(|assertion| &assertion.array);
        let (value_exprs, num_values) = (&values.exprs, values.exprs.len());
        let guards = names.iter().map(|name| guard(name));
        quote! {
            #[allow(unused_variables, clippy::let_unit_value)]
            let (#(#names,)*) = #label: {
                let #value_sizes: [i64; #num_values] = [#(#shape::size(#value_exprs)),*];
                // A match keeps temporary arrays alive for as long as their shapes are used.
                match [#((#arrays).shape()),*] {
                    #shapes => {
                        if let [#(#places),*] = #shapes {
                            #checks
                        }
                        return ::core::result::Result::Err(::core::convert::From::from(
                            #shape::mismatch(
                                &[#(#patterns),*],
                                &#shapes,
                                &#value_sizes,
                                ::core::concat!(::core::file!(), ":", ::core::line!()),
                            ),
                        ));
                    }
                }
            };
            #(#guards)*
        }
    }
}

fn hygienic(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// The variable that holds the size of an axis.
fn size_at((array, axis): (usize, usize)) -> Ident {
    format_ident!("size_{array}_{axis}", span = Span::mixed_site())
}

/// An item that makes binding the same name twice in one block an error, which says what to do:
/// a second binding would hide the first instead of being compared with it.
fn guard(name: &Ident) -> TokenStream {
    let guard = format_ident!("{}_is_bound_above_write_braces_around_it_to_compare", name.unraw());
    quote_spanned! {name.span()=>
        #[allow(dead_code, non_camel_case_types, clippy::items_after_statements)]
        enum #guard {}
    }
}

/// The expressions among the axes, each evaluated once.
#[derive(Default)]
struct Values {
    exprs: Vec<Expr>,
}

impl Values {
    fn index(&mut self, expr: &Expr) -> usize {
        self.exprs.iter().position(|known| known == expr).unwrap_or_else(|| {
            self.exprs.push(expr.clone());
            self.exprs.len() - 1
        })
    }

    /// The sizes of factors, as `i64` expressions.
    fn sizes<'a>(
        &mut self,
        factors: impl Iterator<Item = &'a Factor>,
        shape: &TokenStream,
        value_sizes: &Ident,
    ) -> Vec<TokenStream> {
        factors
            .map(|factor| match factor {
                Factor::Name(name) => quote!(#shape::size(#name)),
                Factor::Literal(literal) => quote!(#shape::size(#literal)),
                Factor::Value(expr) => {
                    let index = self.index(expr);
                    quote!(#value_sizes[#index])
                }
            })
            .collect()
    }
}

/// The patterns as constants, for the error.
fn describe(
    assertions: &[Assertion],
    shape: &TokenStream,
    values: &mut Values,
) -> Vec<TokenStream> {
    let mut describe_factor = |factor: &Factor| match factor {
        Factor::Name(name) => {
            let name = name.unraw().to_string();
            quote!(#shape::Factor::Name(#name))
        }
        Factor::Literal(literal) => quote!(#shape::Factor::Literal(#literal)),
        Factor::Value(expr) => {
            let index = values.index(expr);
            let text = source(expr);
            quote!(#shape::Factor::Value { text: #text, index: #index })
        }
    };
    let mut describe_axis = |axis: &Axis| match axis {
        Axis::Any => quote!(#shape::Axis::Any),
        Axis::Rest(_) => quote!(#shape::Axis::Rest),
        Axis::Product(factors, _) => {
            let factors = factors.iter().map(&mut describe_factor);
            quote!(#shape::Axis::Product(&[#(#factors),*]))
        }
    };
    let describe_assertion = |Assertion { array, axes }: &Assertion| {
        let axes = axes.iter().map(&mut describe_axis);
        let array = source(array);
        quote!(#shape::Pattern { array: #array, axes: &[#(#axes),*] })
    };
    assertions.iter().map(describe_assertion).collect()
}

/// An expression as it is written; the compiler prints spaces around `::`.
fn source(expr: &Expr) -> String {
    expr.to_token_stream().to_string().replace(" :: ", "::")
}
