use mlx_train::register_model;

#[register_model("model", aliases = ["net", "net"])]
struct Model;

fn main() {}
