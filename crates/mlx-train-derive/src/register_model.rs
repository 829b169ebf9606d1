//! `#[register_model("name")]`: puts a `ModelEntry` into the slice that `mlx_train_core::registry` reads.

use crate::{
    mistakes::{Mistakes, suggestion},
    root::root,
};
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{
    Expr, ExprAssign, ExprLit, Item, ItemStruct, Lit, LitStr, Meta, Token, ext::IdentExt,
    parse::Parser, punctuated::Punctuated,
};

/// The item stays in the expansion whatever is wrong, so that a mistake is not reported once more
/// as a type that does not exist.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut expanded = item.clone();
    expanded.extend(entry(arguments, item).unwrap_or_else(syn::Error::into_compile_error));
    expanded
}

fn entry(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut mistakes = Mistakes::default();
    let model = mistakes.keep(syn::parse2(item)).and_then(|item| model(item, &mut mistakes));
    let arguments = Arguments::parse(arguments, model.as_ref(), &mut mistakes);
    mistakes.finish()?;
    let Some(model) = model else { return Ok(TokenStream::new()) };

    let root = root()?;
    let Arguments { name, aliases, tags, description } = arguments;
    let description = description.map_or_else(|| doc_comment(&model), |text| quote!(#text));
    let ident = &model.ident;
    let conditions = model.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    let private = quote!(#root::__private);
    Ok(quote! {
        #(#conditions)*
        const _: () = {
            // Named beside `METHODS`, so that a model that lacks both traits hears of both.
            <#ident as #private::registry::RegisteredModel>::IS_MODEL;

            #[#private::linkme::distributed_slice(#private::registry::MLX_TRAIN_MODELS)]
            #[linkme(crate = #private::linkme)]
            static ENTRY: #private::registry::ModelEntry = #private::registry::ModelEntry::new(
                #private::registry::Registration {
                    name: #name,
                    aliases: &[#(#aliases),*],
                    tags: &[#(#tags),*],
                    description: #description,
                    type_path: ::core::concat!(
                        ::core::module_path!(), "::", ::core::stringify!(#ident)
                    ),
                    file: ::core::file!(),
                    line: ::core::line!(),
                },
                <#ident as #private::registry::RegisteredBuild>::METHODS,
            );
        };
    })
}

/// The struct that is registered, if it can be.
fn model(item: Item, mistakes: &mut Mistakes) -> Option<ItemStruct> {
    let (kind, at) = match &item {
        Item::Struct(_) => ("", TokenStream::new()),
        Item::Enum(item) => ("an enum", item.ident.to_token_stream()),
        Item::Union(item) => ("a union", item.ident.to_token_stream()),
        Item::Fn(item) => ("a function", item.sig.ident.to_token_stream()),
        Item::Trait(item) => ("a trait", item.ident.to_token_stream()),
        Item::Impl(item) => ("an impl block", item.self_ty.to_token_stream()),
        Item::Type(item) => ("a type alias", item.ident.to_token_stream()),
        other => ("something else", other.to_token_stream()),
    };
    let Item::Struct(item) = item else {
        mistakes.at(at, format!("`#[register_model]` registers a struct, this is {kind}"));
        return None;
    };
    if !item.generics.params.is_empty() {
        let ident = &item.ident;
        mistakes.at(
            &item.generics,
            format!(
                "a registered model has no generic parameters: a name is one type; \
                 register a struct that holds the one that you mean, such as \
                 `struct My{ident}(#[param] {ident}<…>);`"
            ),
        );
    }
    for again in &item.attrs {
        if again.path().segments.last().is_some_and(|last| last.ident == "register_model") {
            mistakes.at(
                again,
                "this struct is registered already; give it a second name with `aliases = [\"…\"]`",
            );
        }
    }
    Some(item)
}

/// What stands in the parentheses.
#[derive(Default)]
struct Arguments {
    name: Option<LitStr>,
    aliases: Vec<LitStr>,
    tags: Vec<LitStr>,
    description: Option<LitStr>,
}

impl Arguments {
    fn parse(arguments: TokenStream, model: Option<&ItemStruct>, mistakes: &mut Mistakes) -> Self {
        let mut parsed = Self::default();
        let list = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(arguments);
        let Some(list) = mistakes.keep(list) else { return parsed };
        let mut seen: Vec<String> = Vec::new();
        let mut named = false;
        for argument in &list {
            if let Expr::Assign(assign) = argument {
                named |= parsed.set(assign, &mut seen, mistakes) == "name";
            } else if named {
                mistakes.at(argument, "a model has one name; further ones are `aliases = [\"…\"]`");
            } else {
                named = true;
                parsed.name = string(argument, "the name", mistakes);
            }
        }
        if !named {
            let example = model
                .map_or_else(|| "my_model".to_owned(), |m| proper(&m.ident.unraw().to_string()));
            mistakes.push(syn::Error::new(
                Span::call_site(),
                format!("a model is registered under a name: `#[register_model(\"{example}\")]`"),
            ));
        }
        parsed.check(mistakes);
        parsed
    }

    /// Takes one `key = value`, and returns the key.
    fn set(
        &mut self,
        assign: &ExprAssign,
        seen: &mut Vec<String>,
        mistakes: &mut Mistakes,
    ) -> String {
        let (key, value) = (assign.left.to_token_stream().to_string(), &*assign.right);
        match key.as_str() {
            _ if seen.contains(&key) => {
                mistakes.at(&assign.left, format!("`{key}` is given twice; write it once"));
            }
            "aliases" => self.aliases = strings(value, &key, mistakes),
            "tags" => self.tags = strings(value, &key, mistakes),
            "description" => self.description = string(value, "`description`", mistakes),
            "name" => mistakes.at(
                assign,
                format!(
                    "the name has no key: write `#[register_model({})]`",
                    value.to_token_stream()
                ),
            ),
            _ => {
                let suggestion = suggestion(&key, &["aliases", "tags", "description"]);
                mistakes.at(
                    &assign.left,
                    format!("`#[register_model]` has no key `{key}`{suggestion}"),
                );
            }
        }
        seen.push(key.clone());
        key
    }

    fn check(&self, mistakes: &mut Mistakes) {
        let with = |what| move |literal| (what, literal);
        let name = self.name.iter().map(with("the name of a model"));
        let names: Vec<_> = name.chain(self.aliases.iter().map(with("an alias"))).collect();
        let tags: Vec<_> = self.tags.iter().map(with("a tag")).collect();
        for list in [names, tags] {
            for (index, (what, literal)) in list.iter().enumerate() {
                let text = literal.value();
                if let Some(problem) = problem(&text) {
                    mistakes.at(
                        literal,
                        format!("{text:?} cannot be {what}: {problem}{}", instead(&text)),
                    );
                } else if let Some((earlier, _)) =
                    list[..index].iter().find(|(_, earlier)| earlier.value() == text)
                {
                    mistakes.at(literal, format!("`{text}` is {earlier} already; remove this one"));
                }
            }
        }
    }
}

fn string(value: &Expr, what: &str, mistakes: &mut Mistakes) -> Option<LitStr> {
    if let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = value {
        return Some(text.clone());
    }
    mistakes.at(value, format!("{what} must be a string literal"));
    None
}

fn strings(value: &Expr, key: &str, mistakes: &mut Mistakes) -> Vec<LitStr> {
    let Expr::Array(array) = value else {
        mistakes.at(value, format!("`{key}` is a list: write `{key} = [\"…\"]`"));
        return Vec::new();
    };
    let what = format!("each of `{key}`");
    array.elems.iter().filter_map(|element| string(element, &what, mistakes)).collect()
}

/// Why a text is not a name. Names appear in globs, file names, commands and URLs.
fn problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Some("it must start with a lowercase ASCII letter")
    } else if !name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c))
    {
        Some("only lowercase ASCII letters, digits, `_`, `-` and `.` may be in it")
    } else {
        None
    }
}

/// ``; write `proper_name` ``, where there is something to keep of a name that is not proper.
fn instead(name: &str) -> String {
    let proper = proper(name);
    if problem(&proper).is_none() { format!("; write `{proper}`") } else { String::new() }
}

/// `MyModel 2` to `my_model_2`.
fn proper(name: &str) -> String {
    let mut proper = String::new();
    let mut after_lowercase = false;
    for c in name.trim().chars() {
        if c.is_ascii_uppercase() && after_lowercase {
            proper.push('_');
        }
        after_lowercase = c.is_ascii_lowercase() || c.is_ascii_digit();
        proper.push(if c.is_whitespace() { '_' } else { c.to_ascii_lowercase() });
    }
    proper
}

/// The doc comment as one expression; a line may be a macro, such as `include_str!("model.md")`.
fn doc_comment(model: &ItemStruct) -> TokenStream {
    let lines = model.attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => Some(match &doc.value {
            Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) => {
                let line = line.value();
                let line = line.strip_prefix(' ').unwrap_or(&line);
                quote!(#line, "\n")
            }
            value => quote!(#value, "\n"),
        }),
        _ => None,
    });
    quote!(::core::concat!(#(#lines),*))
}
