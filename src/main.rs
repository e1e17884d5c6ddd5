//! The server's entry: everything is in `app`.

fn main() -> std::process::ExitCode {
    engram::app::main()
}
