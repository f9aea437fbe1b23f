//! `$(NAME)` in env values, command and args, as Kubernetes does it: the value
//! of a variable that is declared before; `$$` is a `$`; a name that is not
//! declared stays as written.

use super::container::MAX_ENV_NAME_BYTES;
use skerry_wire::EnvVar;
use std::borrow::Cow;

/// Bytes of one text once variables are put in.
const MAX_BYTES: usize = super::MAX_POD_BYTES;

/// The text with its variables put in; `None` when it gets longer than a pod
/// may be.
pub(super) fn expand(text: &str, env: &[EnvVar]) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((value, after)) = reference(tail, env) {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
        if out.len() > MAX_BYTES {
            return None;
        }
    }
    out.push_str(rest);
    (out.len() <= MAX_BYTES).then_some(out)
}

/// The text that [`expand`] turns into `text`.
pub(super) fn escape<'t>(text: &'t str, env: &[EnvVar]) -> Cow<'t, str> {
    if !text.contains('$') {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        if rest.starts_with('$') || reference(rest, env).is_some() {
            out.push('$');
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// What stands after a `$`, if it is `(NAME)` of a declared variable: its
/// value, and what follows.
fn reference<'a>(tail: &'a str, env: &'a [EnvVar]) -> Option<(&'a str, &'a str)> {
    let tail = tail.strip_prefix('(')?;
    // No name is longer, so no more is looked at: a text of `$(` alone would
    // be searched to its end at each.
    let mut near = tail.bytes().take(MAX_ENV_NAME_BYTES + 1);
    let end = near.position(|b| b == b')')?;
    let name = &tail[..end];
    let var = env.iter().rev().find(|var| var.name == name)?;
    Some((var.value.text()?, &tail[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_in_kubernetes() {
        let env = [EnvVar {
            name: "A".into(),
            value: "1".into(),
        }];
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)$(A)y", "x11y"),
            ("$(B)", "$(B)"),
            ("echo $(date)", "echo $(date)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$", "$"),
            ("$x$(", "$x$("),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Some(expected), "{text}");
            let escaped = escape(expected, &env);
            assert_eq!(expand(&escaped, &env).as_deref(), Some(expected));
        }
    }

    #[test]
    fn doubling_ends_at_the_limit() {
        let mut env = vec![EnvVar {
            name: "V0".into(),
            value: "x".repeat(1000).into(),
        }];
        let mut refused = false;
        for i in 0..40 {
            match expand(&format!("$(V{i})$(V{i})"), &env) {
                Some(value) => env.push(EnvVar {
                    name: format!("V{}", i + 1),
                    value: value.into(),
                }),
                None => {
                    refused = true;
                    break;
                }
            }
        }
        assert!(refused);
    }
}
