//! Boots a card and shows what it says: `boot MODEL CARD SECONDS [MORE]`.

use skerry_boards::{Board, Model, Setup};
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, card, seconds, more @ ..] = &args[..] else {
        eprintln!("usage: boot virt|raspi3b CARD SECONDS [KERNEL OPTIONS]");
        std::process::exit(2);
    };
    let model = match model.as_str() {
        "raspi3b" => Model::Raspi3b,
        _ => Model::Virt,
    };
    let mut setup = Setup::new(model, card);
    setup.more_cmdline = more.join(" ");
    let board = Board::boot(&setup).expect("boots");
    let patience = Duration::from_secs(seconds.parse().expect("a number"));
    let never = board.console().wait_for("\u{0}", patience);
    print!("{}", board.console().text());
    drop((board, never));
}
