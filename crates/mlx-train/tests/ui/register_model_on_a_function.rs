use mlx_train::register_model;

#[register_model("model")]
fn model() {}

fn main() {}
