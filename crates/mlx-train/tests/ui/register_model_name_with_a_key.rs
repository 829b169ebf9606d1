use mlx_train::register_model;

#[register_model(name = "model")]
struct Model;

fn main() {}
