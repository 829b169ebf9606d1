//! Values that stand in a config as texts of their own.

/// Makes a type with `FromStr` a field of configs, where it is the text that `$text` makes of it. What follows are
/// further functions of [`ConfigField`](super::ConfigField).
macro_rules! text_field {
    ($type:ty, $text:expr $(, { $($more:tt)* })?) => {
        impl $crate::config::ConfigField for $type {
            fn field_type() -> $crate::config::private::FieldType {
                $crate::config::private::FieldType::String
            }

            fn to_node(&self) -> $crate::config::private::Node {
                $crate::config::private::Node::string(&$text(self))
            }

            fn read(
                node: &$crate::config::private::Node,
                _base: Option<&Self>,
                reader: &mut $crate::config::private::Reader,
            ) -> Option<Self> {
                reader.read_text(node)
            }

            $($($more)*)?
        }
    };
}

pub(crate) use text_field;
