//! The two spellings of a connection: `postgresql://…` and `keyword=value …`, read as libpq reads them.

use super::keyword::Settings;
use crate::error::{Error, Result};

/// Whether libpq takes this for a connection string and not for a database name.
pub(super) fn is_connection_string(text: &str) -> bool {
    after_scheme(text).is_some() || text.contains('=')
}

pub(super) fn parse(text: &str) -> Result<Settings> {
    match after_scheme(text) {
        Some(rest) => parse_uri(rest),
        None => parse_keywords(text),
    }
}

/// Quotes a value for a keyword string: `dbname=` followed by this is one parameter whatever the value holds.
pub fn quote_conninfo_value(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for character in value.chars() {
        if matches!(character, '\'' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('\'');
    quoted
}

fn after_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// The white space of C's `isspace`, which is what separates parameters.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

// No message repeats a part of the string: where it cannot be read, the part may be that of a password.
fn parse_keywords(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let name_end = rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len());
        let (name, after_name) = rest.split_at(name_end);
        let Some(after_equals) = after_name.trim_start_matches(is_space).strip_prefix('=') else {
            return Err(Error::usage("a word without \"=\" stands in the connection string")
                .hint("write keyword=value pairs, separated by spaces, and '…' around a value with a space in it"));
        };
        let (value, after_value) = take_value(after_equals.trim_start_matches(is_space), name)?;
        settings.set(name, value)?;
        rest = after_value.trim_start_matches(is_space);
    }
    Ok(settings)
}

fn take_value<'a>(text: &'a str, name: &str) -> Result<(String, &'a str)> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            _ if !quoted && is_space(character) => return Ok((value, &body[at..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    if quoted {
        return Err(Error::usage(format!("the quoted value of {name:?} has no end in the connection string"))
            .hint("close it with ' and write \\' for a quote inside"));
    }
    Ok((value, ""))
}

fn bad_uri(what: impl Into<String>) -> Error {
    Error::usage(format!("read the connection URI: {}", what.into())).hint(
        "the form is postgresql://user@host:port/dbname?parameter=value; write other characters as %XX \
         (a socket directory as %2Fvar%2Frun%2Fpostgresql)",
    )
}

fn parse_uri(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let text = take_credentials(text, &mut settings)?;
    let text = take_hosts(text, &mut settings)?;
    let (dbname, query) = match text.strip_prefix('/') {
        Some(path) => path.split_once('?').unwrap_or((path, "")),
        None => ("", text.strip_prefix('?').unwrap_or("")),
    };
    if !dbname.is_empty() {
        settings.set("dbname", decode(dbname)?)?;
    }
    parse_query(query, &mut settings)?;
    Ok(settings)
}

fn take_credentials<'a>(text: &'a str, settings: &mut Settings) -> Result<&'a str> {
    let end = text.find(['@', '/']).unwrap_or(text.len());
    let Some(rest) = text[end..].strip_prefix('@') else { return Ok(text) };
    let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
    if !user.is_empty() {
        settings.set("user", decode(user)?)?;
    }
    if !password.is_empty() {
        settings.set("password", decode(password)?)?;
    }
    Ok(rest)
}

/// Hosts and ports become comma lists of one length; they are decoded after joining, as libpq does it.
fn take_hosts<'a>(mut text: &'a str, settings: &mut Settings) -> Result<&'a str> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    loop {
        let (host, rest) = take_host(text)?;
        hosts.push_str(host);
        text = rest;
        if let Some(rest) = text.strip_prefix(':') {
            let end = rest.find(['/', '?', ',']).unwrap_or(rest.len());
            ports.push_str(&rest[..end]);
            text = &rest[end..];
        }
        let Some(rest) = text.strip_prefix(',') else { break };
        hosts.push(',');
        ports.push(',');
        text = rest;
    }
    // At the beginning it is the sign of an abstract socket.
    if hosts.split(',').any(|host| host.find('@').is_some_and(|at| at > 0)) {
        return Err(bad_uri("a host has an \"@\" in it; write one that belongs to a password as %40"));
    }
    for (key, list) in [("host", hosts), ("port", ports)] {
        if !list.is_empty() {
            settings.set(key, decode(&list)?)?;
        }
    }
    Ok(text)
}

fn take_host(text: &str) -> Result<(&str, &str)> {
    let Some(inside) = text.strip_prefix('[') else {
        return Ok(text.split_at(text.find([':', '/', '?', ',']).unwrap_or(text.len())));
    };
    match inside.split_once(']') {
        None => Err(bad_uri("an IPv6 address has no closing \"]\"")),
        Some(("", _)) => Err(bad_uri("an IPv6 address is empty")),
        Some((_, rest)) if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) => {
            Err(bad_uri("something follows the \"]\" of an IPv6 address"))
        }
        Some(found) => Ok(found),
    }
}

fn parse_query(query: &str, settings: &mut Settings) -> Result<()> {
    let mut rest = query;
    while !rest.is_empty() {
        let (parameter, others) = rest.split_once('&').unwrap_or((rest, ""));
        rest = others;
        let Some((name, value)) = parameter.split_once('=') else {
            return Err(bad_uri("a parameter has no \"=\"; write a \"&\" inside a value as %26"));
        };
        if value.contains('=') {
            return Err(bad_uri("a parameter has a second \"=\"; write it as %3D"));
        }
        let (name, value) = (decode(name)?, decode(value)?);
        // The spelling of JDBC, which libpq accepts.
        if name == "ssl" && value == "true" {
            settings.set("sslmode", "require")?;
        } else {
            settings.set(&name, value)?;
        }
    }
    Ok(())
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let byte = digits
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .ok_or_else(|| bad_uri("a \"%\" is not followed by two hexadecimal digits"))?;
        if byte == 0 {
            return Err(bad_uri("%00 is not allowed"));
        }
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad_uri("a decoded value is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(text: &str, key: &str) -> Option<String> {
        parse(text).unwrap().get(key).map(str::to_owned)
    }

    #[test]
    fn keyword_strings() {
        let text = r"host = a port='5433' dbname='it''s' ";
        // A quoted value ends at its quote: the next character starts a new name, as in libpq.
        assert!(parse(text).is_err());
        assert_eq!(get(r"dbname='it\'s \\'", "dbname").unwrap(), r"it's \");
        assert_eq!(get(r"dbname=a\ b user=c", "dbname").unwrap(), "a b");
        assert_eq!(get("host= port=1", "host").unwrap(), "port=1");
        assert_eq!(get("host=a host=b", "host").unwrap(), "b");
        assert_eq!(get("host=''user=x", "user").unwrap(), "x");
        for bad in ["host", "host a", "host='a", "hots=a", "=a"] {
            assert!(parse_keywords(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn uris() {
        let uri = "postgresql://u%40x:p%3Aw@[::1]:5433,%2Ftmp,b:7/d%2Fb?application_name=a%20b&ssl=true";
        let expected = [
            ("user", "u@x"),
            ("password", "p:w"),
            ("host", "::1,/tmp,b"),
            ("port", "5433,,7"),
            ("dbname", "d/b"),
            ("application_name", "a b"),
            ("sslmode", "require"),
        ];
        for (key, value) in expected {
            assert_eq!(get(uri, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(get("postgres://?host=/tmp&dbname=x", "host").as_deref(), Some("/tmp"));
        assert_eq!(get("postgres:///x", "host"), None);
        assert_eq!(get("postgres://u@@abstract/x", "host").as_deref(), Some("@abstract"));
        for bad in ["//[::1", "//[]", "//[::1]x", "//h/d?x", "//h/d?user=a=b", "//h/d%2", "//h/d%00", "//h/?nokey=1"] {
            assert!(parse(&format!("postgres:{bad}")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_string_does_not_show_its_password() {
        for text in [
            "postgres://u:hunter2@h/%zz",
            "password=hunter2 host",
            "password='hunter2",
            "password=cor hunter2",
            "password=cor hunter2=x",
            "postgres://h/d?password=cor&hunter2",
            "postgres://h/d?password=cor&hunter2=x",
            "postgres://h/d?password=cor&hunter2=x=y",
            "postgres://u:cor@hunter2@h/d",
        ] {
            let error = parse(text).err().unwrap();
            assert!(!format!("{error:?}").contains("hunter2"), "{text}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_read_back(value in "\\PC*", other in "[ \\\\'=\n\t]*") {
            let value = value + &other;
            let text = format!("user=a dbname={} port=1", quote_conninfo_value(&value));
            let settings = parse_keywords(&text).unwrap();
            prop_assert_eq!(settings.get("dbname"), Some(value.as_str()));
            prop_assert_eq!(settings.get("port"), Some("1"));
        }

        #[test]
        fn a_percent_encoded_value_is_read_back(value in "[^\0]+") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let settings = parse(&format!("postgresql://{encoded}:{encoded}@h/{encoded}?options={encoded}")).unwrap();
            for key in ["user", "password", "dbname", "options"] {
                prop_assert_eq!(settings.get(key), Some(value.as_str()));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*", uri in "postgres://[\\[\\]:@/?&=,%a1]*") {
            drop(parse(&text));
            drop(parse(&uri));
        }
    }
}
