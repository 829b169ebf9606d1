use mlx_train::prelude::*;

use std::collections::HashMap;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    widths: HashMap<String, i32>,
    name: Option<&'static str>,
}

fn main() {}
