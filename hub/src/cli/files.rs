//! The manifest files that `-f` names.

use super::args::FilesArgs;
use super::error::CliError;
use crate::api::types::{ManifestFile, Manifests};
use crate::manifest::{MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Directories below a directory that `-R` goes down.
const MAX_DEPTH: usize = 16;

/// Reads every file; nothing is sent if one cannot be read.
pub(super) fn read(args: &FilesArgs, dry_run: bool) -> Result<Manifests, CliError> {
    let mut files = Vec::new();
    let mut total = 0;
    for path in &args.files {
        if path == Path::new("-") {
            let text = read_bounded("standard input", io::stdin().lock())?;
            files.push(ManifestFile {
                name: "stdin".into(),
                text,
            });
            continue;
        }
        for path in expand(path, args.recursive)? {
            let name = path.display().to_string();
            let file =
                std::fs::File::open(&path).map_err(|e| CliError::io(format!("read {name}"), e))?;
            let text = read_bounded(&name, file)?;
            files.push(ManifestFile { name, text });
            if files.len() > MAX_FILES {
                return Err(CliError::failed(
                    format!("there are more than {MAX_FILES} files"),
                    "apply them in several calls",
                ));
            }
        }
    }
    for file in &files {
        total += file.text.len();
    }
    if total > MAX_TOTAL_BYTES {
        return Err(CliError::failed(
            format!("the files have {total} bytes, more than {MAX_TOTAL_BYTES}"),
            "apply them in several calls",
        ));
    }
    Ok(Manifests { files, dry_run })
}

fn read_bounded(name: &str, reader: impl Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| CliError::io(format!("read {name}"), e))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(CliError::failed(
            format!("{name} has more than {MAX_FILE_BYTES} bytes"),
            "split it; is it a manifest?",
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        CliError::failed(
            format!("{name}:{line}: this is not UTF-8 text"),
            "save it as UTF-8; is it a manifest?",
        )
    })
}

/// A file is itself, a directory its manifests in the order of their names.
fn expand(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, CliError> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| CliError::io(format!("read {shown}"), e))?;
    if !meta.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut found = Vec::new();
    walk(path, recursive, 0, &mut found)?;
    if found.is_empty() {
        return Err(CliError::failed(
            format!("{shown} has no .yaml, .yml or .json file"),
            "name a file, or go down into directories with -R",
        ));
    }
    Ok(found)
}

fn walk(
    dir: &Path,
    recursive: bool,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), CliError> {
    let failed = |e| CliError::io(format!("read {}", dir.display()), e);
    let mut entries = std::fs::read_dir(dir)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let manifest = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if path.is_dir() {
            if recursive && depth < MAX_DEPTH {
                walk(&path, recursive, depth + 1, found)?;
            }
        } else if manifest && found.len() <= MAX_FILES {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(path: &Path, recursive: bool) -> FilesArgs {
        FilesArgs {
            files: vec![path.into()],
            recursive,
        }
    }

    #[test]
    fn directories_give_their_manifests_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "d.txt", ".e.yaml"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/f.yaml"), "f").unwrap();
        let texts = |recursive| -> Vec<String> {
            let manifests = read(&args(dir.path(), recursive), false).unwrap();
            manifests.files.into_iter().map(|f| f.text).collect()
        };
        assert_eq!(texts(false), ["a.yml", "b.yaml", "c.json"]);
        assert_eq!(texts(true), ["a.yml", "b.yaml", "c.json", "f"]);
    }

    #[test]
    fn files_that_are_no_manifests_are_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        std::fs::write(&path, b"a\nb\xff").unwrap();
        let error = read(&args(&path, false), false).unwrap_err().to_string();
        assert!(
            error.contains("x.yaml:2: this is not UTF-8 text"),
            "{error}"
        );
        std::fs::write(&path, vec![b' '; MAX_FILE_BYTES + 1]).unwrap();
        let error = read(&args(&path, false), false).unwrap_err().to_string();
        assert!(error.contains("more than 2097152 bytes"), "{error}");
        let missing = dir.path().join("missing");
        assert!(read(&args(&missing, false), false).is_err());
        std::fs::create_dir(&missing).unwrap();
        assert!(read(&args(&missing, false), false).is_err());
    }
}
