//! The URLs that the environment names. Read by `builder`.

use std::env;
use std::ffi::{OsStr, OsString};

use super::builder::is_near;
use crate::error::{Error, Result};

/// The variables that name the broker, the first of them first.
const BROKER: [&str; 2] = ["LEVERET_URL", "RABBITMQ_URL"];

/// The broker's URL, and the variable that holds it.
///
/// # Errors
/// If neither variable is set, or if the first one that is set is empty, blank or not UTF-8. A default would hide that:
/// a program would enqueue into the wrong broker, report `Ok`, and lose its jobs.
pub(super) fn broker_url() -> Result<(&'static str, String)> {
    choose(|variable| env::var_os(variable), || env::vars_os().map(|(name, _)| name))
}

/// The URL of RabbitMQ's management API. It is optional: an empty variable counts as unset.
///
/// # Errors
/// If the variable is not UTF-8.
pub(super) fn management_url() -> Result<Option<String>> {
    const VARIABLE: &str = "LEVERET_MANAGEMENT_URL";
    let url = env::var_os(VARIABLE).map(|url| text(VARIABLE, url)).transpose()?;
    Ok(url.filter(|url| !url.trim().is_empty()))
}

fn choose<N: Iterator<Item = OsString>>(
    value: impl Fn(&str) -> Option<OsString>,
    names: impl FnOnce() -> N,
) -> Result<(&'static str, String)> {
    let set = BROKER.iter().find_map(|variable| Some((*variable, value(variable)?)));
    let Some((variable, url)) = set else { return Err(unset(names())) };
    let url = text(variable, url)?;
    if !url.trim().is_empty() {
        return Ok((variable, url));
    }
    // The next variable is not read: an empty one is a mistake, and falling back could pick the wrong broker.
    Err(Error::config(match variable {
        "LEVERET_URL" => "LEVERET_URL is empty: set it to the broker's URL, or unset it and set RABBITMQ_URL",
        _ => "RABBITMQ_URL is empty: set it, or LEVERET_URL, to the broker's URL",
    }))
}

fn unset(names: impl Iterator<Item = OsString>) -> Error {
    const UNSET: &str = "neither LEVERET_URL nor RABBITMQ_URL is set";
    let misspelt = |name: OsString| {
        let name = name.into_string().ok()?;
        let upper = name.to_ascii_uppercase();
        let meant = BROKER.into_iter().find(|variable| is_near(&upper, variable))?;
        Some(Error::config(format!("{UNSET}, but {name} is: did you mean {meant}?")))
    };
    names.into_iter().find_map(misspelt).unwrap_or_else(|| {
        Error::config(format!(
            "{UNSET}: set LEVERET_URL to the broker's URL, `amqp://guest:guest@localhost:5672/` or `sqlite:jobs.db`, \
             or to `memory:`, which keeps nothing"
        ))
    })
}

fn text(variable: &str, url: impl AsRef<OsStr>) -> Result<String> {
    let url = url.as_ref().to_str().map(str::to_owned);
    url.ok_or_else(|| Error::config(format!("the environment's {variable} is not UTF-8: set a URL")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice in an environment of these variables.
    fn chosen(variables: &[(&str, &str)]) -> Result<(&'static str, String), String> {
        let value = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
        };
        let names = || variables.iter().map(|(name, _)| name.into());
        choose(value, names).map_err(|error| error.to_string())
    }

    #[test]
    fn first_variable_that_is_set_names_the_broker() {
        let (ours, theirs) = (("LEVERET_URL", "sqlite:jobs.db"), ("RABBITMQ_URL", "amqp://h/"));

        assert_eq!(chosen(&[theirs, ours]), Ok(("LEVERET_URL", "sqlite:jobs.db".to_owned())));
        assert_eq!(chosen(&[theirs]), Ok(("RABBITMQ_URL", "amqp://h/".to_owned())));
    }

    #[test]
    fn nothing_takes_the_place_of_a_missing_url() {
        for variables in [
            &[][..],
            &[("LEVERET_URL", "")],
            &[("LEVERET_URL", " \n")],
            &[("LEVERET_URL", ""), ("RABBITMQ_URL", "amqp://h/")],
            &[("RABBITMQ_URL", "")],
            &[("DATABASE_URL", "amqp://h/")],
        ] {
            let words = chosen(variables).unwrap_err();
            assert!(words.contains("set") && words.contains("LEVERET_URL"), "{variables:?}: {words}");
        }
    }

    #[test]
    fn misspelt_variable_is_named() {
        for name in ["LEVERET_URI", "LEVERT_URL", "LEVERET_ULR", "leveret_url"] {
            let words = chosen(&[("PATH", "/bin"), (name, "amqp://h/")]).unwrap_err();
            assert!(words.ends_with(&format!("but {name} is: did you mean LEVERET_URL?")), "{words}");
        }
        assert!(
            chosen(&[("RABBITMQ_URI", "amqp://h/")]).unwrap_err().ends_with("did you mean RABBITMQ_URL?")
        );
    }
}
