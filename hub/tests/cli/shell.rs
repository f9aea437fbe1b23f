//! The program among others in a shell.

use crate::program::skerry;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn a_closed_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = skerry(dir.path(), &["completion", "bash"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command
        .stdout(writer)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn bash_completes_with_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let bin = PathBuf::from(env!("CARGO_BIN_EXE_skerry"));
    let path = format!(
        "{}:{}",
        bin.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let script = r#"
        source <(skerry completion bash)
        COMP_WORDS=(skerry get de); COMP_CWORD=2; _skerry; echo "${COMPREPLY[@]}"
        COMP_WORDS=(skerry token create --approve ""); COMP_CWORD=4; _skerry; echo "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .env("PATH", path)
        .env("HOME", dir.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "devices\nauto manual\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
