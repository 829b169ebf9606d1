use mlx_train::register_model;

#[register_model(tags = ["vision"])]
struct Model;

fn main() {}
