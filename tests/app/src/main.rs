//! The app of the demo and of the tests: it serves, counts, ends or misbehaves
//! as told. Built static (see `demo`), so that an image of it holds one file.
//! With a trailer behind the program it plays an agent that does not work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage:
  app serve PORT           answer HTTP with $TEXT and the host name
  app lines MILLISECONDS   print numbered lines for ever
  app echo PORT            send lines back, by TCP and UDP, with $TEXT before
  app ask HOST PORT [WHAT] say a line to such an app, print what comes back
  app pour HOST PORT KIB   send so much, until all of it was taken
  app cat FILE             print a file
  app exit CODE            end with this code
  app hog MEBIBYTES        take that much memory and keep it
  app sleep                do nothing for ever
  app note FILE WORDS      add a line to a file
  app exists FILE          end well if the file is there
  app read FILE            print a file
  app fill FILE KIBIBYTES  write a file of so many zeros; says why it cannot
  app lock FILE            lock a file and keep it locked
  app api METHOD PATH BODY ask the device's API and print its answer
  app env                  print the environment and end
  app time                 print the monotonic clock as Rust shows it and end";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((version, how)) = trailer() {
        return broken_agent(&version, &how, args.first().map_or("", String::as_str));
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", port] => serve(port),
        ["lines", millis] => lines(millis),
        ["echo", port] => echo(port),
        ["ask", host, port] => ask(host, port, "hello"),
        ["ask", host, port, what] => ask(host, port, what),
        ["pour", host, port, kib] => pour(host, port, kib),
        ["cat", file] => cat(file),
        ["exit", code] => return code.parse::<u8>().map_or(ExitCode::from(2), ExitCode::from),
        ["hog", mebibytes] => hog(mebibytes),
        ["sleep"] => sleep(),
        ["note", file, ref words @ ..] => note(file, words),
        ["exists", file] => exists(file),
        ["read", file] => read(file),
        ["fill", file, kibibytes] => fill(file, kibibytes),
        ["lock", file] => lock(file),
        ["api", method, path] => api(method, path, ""),
        ["api", method, path, body] => api(method, path, body),
        ["env"] => {
            std::env::vars().for_each(|(name, value)| println!("{name}={value}"));
            Ok(())
        }
        ["time"] => {
            println!("{:?}", std::time::Instant::now());
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

fn cat(file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    print!("{text}");
    Ok(())
}

fn text() -> String {
    std::env::var("TEXT").unwrap_or_else(|_| "hello".into())
}

/// On both families, where the machine has both.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn echo(port: &str) -> Result<(), String> {
    let port = number(port)?;
    let failed = |e| format!("cannot listen on port {port}: {e}");
    let datagrams = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)));
    let datagrams = datagrams.map_err(failed)?;
    let listener = listen(port).map_err(failed)?;
    println!("echoing on port {port}");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..len]);
            let _ = datagrams.send_to(format!("{}: {said}", text()).as_bytes(), from);
        }
    });
    for connection in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(&connection);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
                if write!(&connection, "{}: {line}", text()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    Ok(())
}

fn connect(host: &str, port: &str) -> Result<TcpStream, String> {
    let all = (host, number(port)?).to_socket_addrs();
    let all = all.map_err(|e| format!("{host}: {e}"))?;
    let mut why = format!("{host} has no address");
    for address in all {
        match TcpStream::connect_timeout(&address, Duration::from_secs(20)) {
            Ok(connection) => return Ok(connection),
            Err(e) => why = format!("{address}: {e}"),
        }
    }
    Err(why)
}

fn ask(host: &str, port: &str, what: &str) -> Result<(), String> {
    let mut connection = connect(host, port)?;
    let said = (|| {
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        writeln!(connection, "{what}")?;
        let mut line = String::new();
        BufReader::new(&connection).read_line(&mut line)?;
        Ok(line)
    })();
    let line = said.map_err(|e: std::io::Error| format!("{host}: {e}"))?;
    print!("{line}");
    Ok(())
}

fn pour(host: &str, port: &str, kib: &str) -> Result<(), String> {
    let mut connection = connect(host, port)?;
    let poured = (|| {
        for _ in 0..number::<u32>(kib)? {
            connection
                .write_all(&[0; 1024])
                .map_err(|e| e.to_string())?;
        }
        let end = connection.shutdown(std::net::Shutdown::Write);
        end.map_err(|e| e.to_string())?;
        let mut taken = String::new();
        let read = BufReader::new(&connection).read_line(&mut taken);
        read.map_err(|e| e.to_string())?;
        Ok(taken)
    })();
    print!("{}", poured.map_err(|e: String| format!("{host}: {e}"))?);
    Ok(())
}

fn lock(file: &str) -> Result<(), String> {
    let file = std::fs::File::open(file).map_err(|e| format!("cannot open: {e}"))?;
    file.lock().map_err(|e| format!("cannot lock: {e}"))?;
    println!("locked");
    sleep()
}

/// Ends badly if the answer is not 200.
fn api(method: &str, path: &str, body: &str) -> Result<(), String> {
    let mut stream = std::os::unix::net::UnixStream::connect("/run/skerry/api.sock")
        .map_err(|e| format!("cannot connect: {e}"))?;
    let length = body.len();
    let failed = |e: std::io::Error| format!("cannot ask: {e}");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: skerry\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
    print!("{body}");
    match head.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(head.lines().next().unwrap_or_default().to_string()),
    }
}

fn serve(port: &str) -> Result<(), String> {
    let text = text();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let body = format!("{text} from {}\n", host.trim());
    let listener =
        listen(number(port)?).map_err(|e| format!("cannot listen on port {port}: {e}"))?;
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
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
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
