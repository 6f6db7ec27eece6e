//! Variables in an environment file's texts, as EDF has them.
//!
//! `${NAME}` and `$NAME` are the caller's variable, `${NAME:-DEFAULT}` is DEFAULT where that is unset
//! or empty, `$$` is a dollar sign. No command is run. A dollar sign before anything else is one:
//! `^a$` stays what it is.

use std::ffi::OsString;

/// How deep a default may hold another.
const MAX_DEPTH: usize = 10;
/// No variable and no argument of a program can be longer (MAX_ARG_STRLEN).
const MAX_LENGTH: usize = 128 << 10;

/// Looks a variable of the caller's up.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// Nobody has set it.
    #[error("variable {0} is not set")]
    Undefined(String),
    /// TOML is UTF-8, and so is what replaces a part of it.
    #[error("variable {0} is not UTF-8")]
    Encoding(String),
    /// What a shell would do more than is done here.
    #[error("{0:?} is not ${{NAME}} or ${{NAME:-DEFAULT}}")]
    Syntax(String),
    /// A command is not a variable.
    #[error("{0:?} is a command, which is not run")]
    Command(String),
    /// Nothing that takes the text could have one.
    #[error("it holds a NUL byte")]
    Nul,
    /// More than any program can be given.
    #[error("it is longer than {MAX_LENGTH} bytes")]
    TooLong,
}

/// Puts the values of variables in the place of their names.
pub(super) fn expand(text: &str, variables: Variables<'_>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    expand_into(&mut out, text, variables, MAX_DEPTH)?;
    if out.contains('\0') {
        return Err(ExpandError::Nul);
    }
    Ok(out)
}

/// Writes a text so that [`expand`] makes it what it was.
pub(super) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn expand_into(
    out: &mut String,
    mut text: &str,
    variables: Variables<'_>,
    depth: usize,
) -> Result<(), ExpandError> {
    while let Some((before, after)) = text.split_once('$') {
        out.push_str(before);
        text = match after.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                &after[1..]
            }
            Some(b'{') => {
                let syntax = || ExpandError::Syntax(format!("${}", start_of(after)));
                let (inner, rest) = braced(&after[1..]).ok_or_else(syntax)?;
                let (name, default) = match inner.split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (inner, None),
                };
                if name.is_empty() || name_of(name) != name {
                    return Err(syntax());
                }
                match (value(name, variables), default) {
                    (Ok(value), None) => out.push_str(&value),
                    (Ok(value), Some(_)) if !value.is_empty() => out.push_str(&value),
                    (Ok(_) | Err(ExpandError::Undefined(_)), Some(default)) => {
                        let depth = depth.checked_sub(1).ok_or_else(syntax)?;
                        expand_into(out, default, variables, depth)?;
                    }
                    (Err(error), _) => return Err(error),
                }
                rest
            }
            Some(b'(') => return Err(ExpandError::Command(format!("${}", start_of(after)))),
            _ => match name_of(after) {
                "" => {
                    out.push('$');
                    after
                }
                name => {
                    out.push_str(&value(name, variables)?);
                    &after[name.len()..]
                }
            },
        };
        if out.len() > MAX_LENGTH {
            return Err(ExpandError::TooLong);
        }
    }
    out.push_str(text);
    if out.len() > MAX_LENGTH { Err(ExpandError::TooLong) } else { Ok(()) }
}

fn value(name: &str, variables: Variables<'_>) -> Result<String, ExpandError> {
    let value = variables(name).ok_or_else(|| ExpandError::Undefined(name.to_owned()))?;
    value.into_string().map_err(|_| ExpandError::Encoding(name.to_owned()))
}

/// What stands before the brace that closes, and what comes after it. A default may hold braces.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut open = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => continue,
        }
        if open == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// The variable's name that a text begins with; empty if it begins with none.
fn name_of(text: &str) -> &str {
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if !text.bytes().next().is_some_and(is_first) {
        return "";
    }
    let end = text.bytes().position(|byte| !is_first(byte) && !byte.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

/// Enough of a text to find it by.
fn start_of(text: &str) -> String {
    let end = text.find([')', '}']).map_or(text.len(), |at| at + 1);
    text[..end].chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, ExpandError> {
        expand(text, &|name| match name {
            "USER" => Some("ada".into()),
            "EMPTY" => Some("".into()),
            "DOLLAR" => Some("$USER".into()),
            "ODD" => Some(std::os::unix::ffi::OsStringExt::from_vec(vec![0xff])),
            "LONG" => Some("x".repeat(MAX_LENGTH).into()),
            _ => None,
        })
    }

    #[test]
    fn variables_have_the_callers_values() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$USER", "ada"),
            ("/home/${USER}/x", "/home/ada/x"),
            ("$USER/$USER-x", "ada/ada-x"),
            ("${EMPTY}", ""),
            ("$EMPTY.", "."),
            ("${NONE:-}", ""),
            ("${NONE:-/tmp/$USER}/x", "/tmp/ada/x"),
            ("${NONE:-${ALSO_NONE:-{a}}}", "{a}"),
            ("${EMPTY:-x}", "x"),
            ("${USER:-${NONE}}", "ada"),
            ("$${USER}", "${USER}"),
            ("$$USER$$", "$USER$"),
            ("$DOLLAR", "$USER"),
            ("^a$", "^a$"),
            ("$1 $. $-", "$1 $. $-"),
            ("naïve$USER漢字", "naïveada漢字"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let deep = "${A:-".repeat(20) + &"}".repeat(20);
        let many = "$LONG$LONG";
        for (text, problem) in [
            ("$NONE/x", "variable NONE is not set"),
            ("${NONE}", "variable NONE is not set"),
            ("${USER:-x}${NONE}", "variable NONE is not set"),
            ("$ODD", "variable ODD is not UTF-8"),
            ("${ODD:-x}", "variable ODD is not UTF-8"),
            ("${USER", "\"${USER\" is not ${NAME} or ${NAME:-DEFAULT}"),
            ("${}", "\"${}\" is not"),
            ("${USER:1} and more", "\"${USER:1}\" is not"),
            ("${1}", "\"${1}\" is not"),
            ("${U SER}", "\"${U SER}\" is not"),
            ("$(id -un)/x", "\"$(id -un)\" is a command, which is not run"),
            ("a\0b", "it holds a NUL byte"),
            (&deep, "is not ${NAME}"),
            (many, "it is longer than"),
        ] {
            let error = expanded(text).expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn what_was_escaped_is_what_it_was() {
        for text in ["", "$", "$$", "${A}", "a$b$", "$("] {
            assert_eq!(expanded(&escape(text)).as_deref(), Ok(text));
        }
    }
}
