//! `$(NAME)` in values of variables, command and arguments, as Kubernetes does
//! it: the value of a variable that is declared before; `$$` is a `$`; a name
//! that is not declared stays as written.

/// Longest name of a variable, in bytes: so far a closing bracket is looked
/// for.
const MAX_NAME_BYTES: usize = 256;
/// Bytes of one text once variables are put in: half of what Linux takes as
/// one argument.
const MAX_BYTES: usize = 64 * 1024;

/// The text with its variables put in; `None` when it gets too long. The
/// newest of several variables of a name counts.
pub fn expand(text: &str, env: &[(String, String)]) -> Option<String> {
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
    Some(out)
}

/// The first variable that a text refers to and that is not declared.
pub fn undeclared<'t>(text: &'t str, env: &'t [(String, String)]) -> Option<&'t str> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let tail = &rest[at + 1..];
        rest = match (tail.strip_prefix('$'), reference(tail, env)) {
            (Some(after), _) | (None, Some((_, after))) => after,
            (None, None) => match tail.strip_prefix('(').and_then(|it| it.split_once(')')) {
                Some((name, _)) => return Some(name),
                None => tail,
            },
        };
    }
    None
}

/// What stands after a `$`, if it is `(NAME)` of a declared variable: its
/// value, and what follows.
fn reference<'a>(tail: &'a str, env: &'a [(String, String)]) -> Option<(&'a str, &'a str)> {
    let tail = tail.strip_prefix('(')?;
    // No name is longer, so no more is looked at: a text of `$(` alone would
    // be searched to its end at each.
    let mut near = tail.bytes().take(MAX_NAME_BYTES + 1);
    let end = near.position(|b| b == b')')?;
    let (_, value) = env.iter().rev().find(|(name, _)| *name == tail[..end])?;
    Some((value, &tail[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_in_kubernetes() {
        let env = [("A".to_string(), "1".to_string())];
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
        }
    }

    #[test]
    fn what_is_not_declared_is_found() {
        let env = [("A".to_string(), "1".to_string())];
        for (text, expected) in [
            ("$(A)/x", None),
            ("x$(B)/$(C)", Some("B")),
            ("$(A)$(B)", Some("B")),
            ("$$(B)", None),
            ("$(B", None),
            ("$", None),
        ] {
            assert_eq!(undeclared(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn doubling_ends_at_the_limit() {
        let mut env = vec![("V0".to_string(), "x".repeat(1000))];
        let mut refused = false;
        for i in 0..40 {
            match expand(&format!("$(V{i})$(V{i})"), &env) {
                Some(value) => env.push((format!("V{}", i + 1), value)),
                None => {
                    refused = true;
                    break;
                }
            }
        }
        assert!(refused);
    }
}
