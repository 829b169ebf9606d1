//! How the cut of a pipeline is said in a config.

use crate::config::{
    ConfigField,
    private::{EnumSchema, FieldType, Node, Reader, VariantSchema},
};

/// How many blocks of the model's stack each stage of a pipeline has: in configs `measured`, `even`, or the numbers,
/// as in `[17, 15]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PipelineBlocks {
    /// As many as makes the slowest stage the fastest, by times that every rank measures before the first step.
    #[default]
    Measured,
    /// As many as the others, or one more or less.
    Even,
    /// These, the first stage first.
    Given(Vec<usize>),
}

impl PipelineBlocks {
    const MEASURED: &str = "measured";
    const EVEN: &str = "even";
}

impl ConfigField for PipelineBlocks {
    fn field_type() -> FieldType {
        let variant = |name, docs| VariantSchema::new(name, docs, Vec::new());
        let names = EnumSchema::new(
            "PipelineBlocks",
            "",
            vec![variant(Self::MEASURED, ""), variant(Self::EVEN, "")],
        );
        FieldType::Either(vec![FieldType::Enum(names), Vec::<usize>::field_type()])
    }

    fn to_node(&self) -> Node {
        match self {
            Self::Measured => Node::string(Self::MEASURED),
            Self::Even => Node::string(Self::EVEN),
            Self::Given(blocks) => blocks.to_node(),
        }
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        if node.is_list() {
            return Vec::read(node, None, reader).map(Self::Given);
        }
        match node.text() {
            Some(Self::MEASURED) => Some(Self::Measured),
            Some(Self::EVEN) => Some(Self::Even),
            _ => reader.refuse_type(node, &Self::field_type()),
        }
    }
}
