//! Docker's credential helpers: `docker-credential-NAME get`, the server on standard input, JSON on
//! standard output (docker-credential-helpers, "Development").

use std::{
    io::{self, Read, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::Deserialize;

use super::{Found, Problem, Secret, Source};
use crate::{
    login::Login,
    report::{chain, printable},
};

/// Long enough for a keychain that asks its user; a pull on a node must not wait for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// The user's name where the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper that the file at `path` names.
pub(super) fn ask(
    path: &Path,
    name: &str,
    server: &str,
    registry: &str,
) -> Result<Option<Found>, Problem> {
    let program = format!("docker-credential-{name}");
    let problem = |why: String| {
        let program = printable(&program);
        Problem::Helper { program, path: path.to_owned(), why }
    };
    if name.contains(['/', '\0']) {
        return Err(problem("no program's name".to_owned()));
    }
    let mut command = Command::new(&program);
    command.arg("get");
    let answer = run(command, server, LIMIT).map_err(&problem)?;
    let Some(Answer { username, secret }) = answer else { return Ok(None) };
    let secret = match username.as_str() {
        TOKEN_USER => Secret::IdentityToken(secret),
        _ => Secret::Password(Login {
            registry: registry.to_owned(),
            user: username,
            password: secret,
        }),
    };
    Ok(Some(Found::at(secret, Source::Helper(program))))
}

/// Runs a helper; `None` if it has no credentials.
fn run(mut command: Command, server: &str, limit: Duration) -> Result<Option<Answer>, String> {
    let words = |e: io::Error| chain(&e);
    // A name fits into a pipe. Written while both ends are ours, it cannot meet a helper that does
    // not read it, and SIGPIPE.
    let (input, mut server_name) = io::pipe().map_err(words)?;
    server_name.write_all(server.as_bytes()).map_err(words)?;
    drop(server_name);
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "not found in PATH".to_owned(),
        _ => chain(&e),
    })?;
    let ended = finish(&mut child, limit);
    // It has ended, or it is to end now.
    let _ = child.kill();
    let status = child.wait().map_err(words)?;
    let Some((stdout, stderr)) = ended else {
        return Err(format!("no answer within {} s", limit.as_secs()));
    };
    if status.success() {
        let answer: Result<Answer, _> = serde_json::from_slice(&stdout);
        let answer = answer.map_err(|_| "its answer is not understood".to_owned())?;
        return Ok(Some(answer).filter(|answer| !answer.secret.is_empty()));
    }
    // By the protocol, standard output has the reason; many write it to the other one.
    let words = [stdout, stderr].into_iter().find_map(|bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    });
    match words {
        Some(words) if words.contains("credentials not found") => Ok(None),
        // Half an answer is no reason, and may hold the secret.
        Some(words) if !words.starts_with('{') => {
            Err(printable(&words.chars().take(200).collect::<String>()))
        }
        _ => Err(format!("failed, {status}")),
    }
}

/// Reads what a program says until it closes both outputs; `None` if it has not in time.
fn finish(child: &mut Child, limit: Duration) -> Option<(Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take()?, child.stderr.take()?);
    let (tell, told) = mpsc::channel();
    // The thread ends with the program, or with whomever that has left its outputs to.
    thread::spawn(move || {
        let errors = thread::spawn(move || collect(stderr));
        let stdout = collect(stdout);
        let _ = tell.send((stdout, errors.join().unwrap_or_default()));
    });
    told.recv_timeout(limit).ok()
}

fn collect(stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read until then is what there is.
    let _ = stream.take(MAX_ANSWER).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn told(script: &str, limit: Duration) -> Result<Option<String>, String> {
        let mut helper = Command::new("sh");
        helper.args(["-c", script]);
        let answer = run(helper, "r.io", limit)?;
        Ok(answer.map(|a| format!("{}:{}", a.username, a.secret)))
    }

    #[test]
    fn a_helper_answers_or_says_why_not() {
        let minute = Duration::from_secs(60);
        let answer = r#"read -r server; echo "{\"ServerURL\":\"x\",\"Username\":\"$server\",\"Secret\":\"s\"}""#;
        assert_eq!(told(answer, minute), Ok(Some("r.io:s".into())));
        assert_eq!(told("echo '{\"Username\":\"\",\"Secret\":\"\"}'", minute), Ok(None));
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(told(none, minute), Ok(None));
        for (script, why) in [
            ("echo locked; echo more; exit 1", "locked"),
            ("echo 'not logged in' >&2; exit 2", "not logged in"),
            ("echo '{\"Secret\":\"s\"}'; exit 3", "failed, exit status: 3"),
            ("exit 4", "failed, exit status: 4"),
            ("echo SECRET", "its answer is not understood"),
        ] {
            assert_eq!(told(script, minute), Err(why.into()), "{script}");
        }
        let absent = run(Command::new("docker-credential-absent"), "r.io", minute);
        assert_eq!(absent.err().as_deref(), Some("not found in PATH"));
    }

    #[test]
    fn a_helper_that_hangs_is_left() {
        let began = Instant::now();
        let why = told("sleep 100 & sleep 100", Duration::from_secs(1)).expect_err("it hangs");
        assert_eq!(why, "no answer within 1 s");
        assert!(began.elapsed() < Duration::from_secs(50), "it was waited for");
    }
}
