use mlx_train::register_model;

#[register_model("model", tags = [2])]
struct Model;

fn main() {}
