use mlx_train::register_model;

const NAME: &str = "model";

#[register_model(NAME)]
struct Model;

fn main() {}
