//! Colours on a terminal, plain text elsewhere.

use std::io::IsTerminal;
use std::sync::OnceLock;

fn coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    *COLOURED
        .get_or_init(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

fn paint(code: &str, text: &str) -> String {
    if coloured() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub fn bold(text: &str) -> String {
    paint("1", text)
}

pub fn dim(text: &str) -> String {
    paint("2", text)
}

pub fn good(text: &str) -> String {
    paint("32", text)
}

pub fn warn(text: &str) -> String {
    paint("33", text)
}

pub fn bad(text: &str) -> String {
    paint("31", text)
}

pub fn name(text: &str) -> String {
    paint("36", text)
}

/// A count of bytes for people: `3.2 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A bar of a chart: `part` of `whole`, at most `width` cells.
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    let eighths = (part as f64 / whole.max(1) as f64 * width as f64 * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.push_str(
        ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]
            .get(eighths % 8)
            .unwrap_or(&""),
    );
    if bar.is_empty() && part > 0 {
        "▏".to_owned()
    } else {
        bar
    }
}
