//! What a field's type is, as far as its tokens say; the compiler knows the rest.

use syn::{GenericArgument, PathArguments, Type};

/// A type by its tokens.
pub(super) enum Known<'a> {
    /// A primitive integer, by name.
    Integer(String),
    /// `f32` or `f64`.
    Float,
    Boolean,
    String,
    Path,
    Optional(&'a Type),
    List(&'a Type),
    Array(&'a Type),
    /// A nested config, an enum, or a name for one of the above.
    Other,
}

impl<'a> Known<'a> {
    pub(super) fn of(ty: &'a Type) -> Self {
        match ty {
            Type::Group(group) => Self::of(&group.elem),
            Type::Paren(paren) => Self::of(&paren.elem),
            Type::Array(array) => Self::Array(&array.elem),
            Type::Path(path) if path.qself.is_none() => Self::of_path(&path.path),
            _ => Self::Other,
        }
    }

    fn of_path(path: &'a syn::Path) -> Self {
        let Some(last) = path.segments.last() else { return Self::Other };
        let name = last.ident.to_string();
        match (name.as_str(), &last.arguments) {
            ("f32" | "f64", PathArguments::None) => Self::Float,
            ("bool", PathArguments::None) => Self::Boolean,
            ("String", PathArguments::None) => Self::String,
            ("PathBuf", PathArguments::None) => Self::Path,
            ("Option" | "Vec", PathArguments::AngleBracketed(arguments)) => {
                match (arguments.args.first(), name.as_str()) {
                    (Some(GenericArgument::Type(ty)), "Option") => Self::Optional(ty),
                    (Some(GenericArgument::Type(ty)), _) => Self::List(ty),
                    _ => Self::Other,
                }
            }
            (_, PathArguments::None) if is_integer(&name) => Self::Integer(name),
            _ => Self::Other,
        }
    }

    /// What a value of this type is called in messages.
    pub(super) fn expects(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float => "a number",
            Self::Boolean => "`true` or `false`",
            Self::String | Self::Path => "a string",
            Self::List(_) | Self::Array(_) => "a list, as `[1, 2]`",
            Self::Optional(_) | Self::Other => "a value of its type",
        }
    }
}

/// What an `Option`, `Vec` or array holds in the end.
pub(super) fn innermost(ty: &Type) -> &Type {
    match Known::of(ty) {
        Known::Optional(inner) | Known::List(inner) | Known::Array(inner) => innermost(inner),
        _ => ty,
    }
}

fn is_integer(name: &str) -> bool {
    let bits = name.strip_prefix(['i', 'u']);
    bits.is_some_and(|bits| matches!(bits, "8" | "16" | "32" | "64" | "size"))
}
