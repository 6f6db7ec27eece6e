//! `shifter login REGISTRY`, and how other verbs ask who is there.

use std::io::Read as _;

use clap::Args;
use runtime::{
    Config, Login,
    login::{self, Error},
    registry,
    report::Report,
};

use crate::{output, terminal::Terminal};

/// Longer than any token.
const MAX_PASSWORD: u64 = 1 << 20;

/// Log in to a registry.
///
/// The registry is asked whether it accepts the login. It is stored for later pulls in
/// ~/.config/shifter/auth.json, which only you can read: in base64, not encrypted.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    who: Who,
    #[arg(help = "The registry, as in image names: nvcr.io", value_name = "REGISTRY")]
    registry: String,
}

/// Who somebody is. Passwords do not come on the command line, where every user of the node reads
/// them.
#[derive(Debug, Args)]
pub(crate) struct Who {
    #[arg(long, short, value_name = "NAME", help = "Your name at the registry")]
    username: Option<String>,
    #[arg(
        long,
        requires = "username",
        help = "Read the password, or a token, from standard input"
    )]
    password_stdin: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let registry = login::registry(&arguments.registry).map_err(|e| Report::from(&e))?;
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let login = arguments.who.ask(&registry)?;
    let stored = registry::login(&login, &config).map_err(|e| Report::from(&e))?;
    let unchecked = match stored.checked {
        true => "",
        false => "; the registry did not ask for it, so it is not checked",
    };
    output::talk(
        None,
        &format!(
            "logged in to {registry}; stored in {}, in base64, not encrypted{unchecked}",
            stored.path
        ),
    );
    Ok(())
}

impl Who {
    /// Whether anything was said about it.
    pub(crate) fn is_given(&self) -> bool {
        self.username.is_some()
    }

    /// Finds out the rest, on standard input or the terminal.
    pub(crate) fn ask(&self, registry: &str) -> Result<Login, Report> {
        self.login(registry).map_err(|e| Report::from(&e).during(format_args!("login {registry}")))
    }

    fn login(&self, registry: &str) -> Result<Login, Error> {
        if let (Some(user), true) = (&self.username, self.password_stdin) {
            let mut password = String::new();
            std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut password)?;
            // What echo adds; a password may end in a blank.
            let end = password.trim_end_matches(['\r', '\n']).len();
            password.truncate(end);
            return Login::new(registry, user.clone(), password);
        }
        let terminal = Terminal::open().map_err(|_| Error::NoTerminal)?;
        let user = match &self.username {
            Some(user) => user.clone(),
            None => terminal.ask(&format!("Username for {registry}: "))?,
        };
        let password = terminal.ask_secret(&format!("Password for {user} at {registry}: "))?;
        Login::new(registry, user, password)
    }
}
