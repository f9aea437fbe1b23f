//! The app of the demo and of the tests: it serves, counts, ends or misbehaves
//! as told. Built static (see `demo`), so that an image of it holds one file.
//! With a trailer behind the program it plays an agent that does not work.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage:
  app serve PORT           answer HTTP with $TEXT and the host name
  app lines MILLISECONDS   print numbered lines for ever
  app exit CODE            end with this code
  app hog MEBIBYTES        take that much memory and keep it
  app sleep                do nothing for ever
  app note FILE WORDS      add a line to a file
  app exists FILE          end well if the file is there
  app read FILE            print a file
  app fill FILE KIBIBYTES  write a file of so many zeros; says why it cannot
  app env                  print the environment and end";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((version, how)) = trailer() {
        return broken_agent(&version, &how, args.first().map_or("", String::as_str));
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", port] => serve(port),
        ["lines", millis] => lines(millis),
        ["exit", code] => return code.parse::<u8>().map_or(ExitCode::from(2), ExitCode::from),
        ["hog", mebibytes] => hog(mebibytes),
        ["sleep"] => sleep(),
        ["note", file, ref words @ ..] => note(file, words),
        ["exists", file] => exists(file),
        ["read", file] => read(file),
        ["fill", file, kibibytes] => fill(file, kibibytes),
        ["env"] => {
            std::env::vars().for_each(|(name, value)| println!("{name}={value}"));
            Ok(())
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

fn note(file: &str, words: &[&str]) -> Result<(), String> {
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file);
    let written = file.and_then(|mut file| writeln!(file, "{}", words.join(" ")));
    written.map_err(|e| format!("cannot write: {e}"))
}

fn read(file: &str) -> Result<(), String> {
    let bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
    let written = std::io::stdout().write_all(&bytes);
    written.map_err(|e| format!("cannot print: {e}"))
}

fn fill(file: &str, kibibytes: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{file}: {e}");
    let mut file = std::fs::File::create(file).map_err(failed)?;
    for _ in 0..number::<u64>(kibibytes)? {
        file.write_all(&[0; 1024]).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

fn exists(file: &str) -> Result<(), String> {
    match std::fs::exists(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("there is no {file}")),
        Err(e) => Err(format!("{file}: {e}")),
    }
}

fn serve(port: &str) -> Result<(), String> {
    let text = std::env::var("TEXT").unwrap_or_else(|_| "hello".into());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let body = format!("{text} from {}\n", host.trim());
    let listener = TcpListener::bind(("0.0.0.0", number(port)?))
        .map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    println!("serving on port {port}");
    for connection in listener.incoming().flatten() {
        // One client that breaks off is no reason to stop serving.
        if let Err(e) = answer(connection, &body) {
            eprintln!("client: {e}");
        }
    }
    Ok(())
}

fn answer(mut connection: TcpStream, body: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut line = String::new();
    let mut reader = BufReader::new(connection.try_clone()?);
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn lines(millis: &str) -> Result<(), String> {
    let pause = Duration::from_millis(number(millis)?);
    for n in 1u64.. {
        // A closed pipe ends it, as it ends any program.
        if writeln!(std::io::stdout(), "line {n}").is_err() {
            return Err("nobody reads".into());
        }
        #[expect(clippy::disallowed_methods, reason = "its pace is what it is for")]
        std::thread::sleep(pause);
    }
    Ok(())
}

fn hog(mebibytes: &str) -> Result<(), String> {
    let mut held = Vec::new();
    for _ in 0..number::<usize>(mebibytes)? {
        // Written, not just reserved.
        held.push(vec![1u8; 1 << 20]);
    }
    println!("holding {} MiB", held.len());
    sleep()
}

/// `\0skerry-agent version=VERSION\0HOW\0` at the end of this program's file.
fn trailer() -> Option<(String, String)> {
    let bytes = std::fs::read(std::env::current_exe().ok()?).ok()?;
    let end = &bytes[bytes.len().saturating_sub(128)..];
    let text = String::from_utf8_lossy(end);
    let (_, rest) = text.split_once("skerry-agent version=")?;
    let mut words = rest.split('\0');
    Some((words.next()?.to_string(), words.next()?.to_string()))
}

/// Says its version as an agent does, and is of no use otherwise.
fn broken_agent(version: &str, how: &str, verb: &str) -> ExitCode {
    match (verb, how) {
        ("version", _) => {
            println!("skerry-agent {version}");
            ExitCode::SUCCESS
        }
        ("run", "hang") => loop {
            std::thread::park();
        },
        _ => ExitCode::from(3),
    }
}
