use mlx_train::register_model;

#[register_model("model", aliases = "net")]
struct Model;

fn main() {}
