//! Where the SQL of an archive names roles.
//!
//! `pg_dump` writes roles outside the owner field in five kinds of entries only: rights, default rights, policies, user
//! mappings and settings of the database. Their statements have few forms. What has another form is refused.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::pg::ident::quote_ident;
use crate::pg::script::{Statement, Token, statements};

/// What an entry names roles for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Privileges,
    Other,
}

/// Whether the SQL of entries of this kind names roles.
pub(super) fn naming(desc: &str) -> Option<Naming> {
    match desc {
        "ACL" | "ACL LANGUAGE" | "DEFAULT ACL" => Some(Naming::Privileges),
        "POLICY" | "USER MAPPING" | "DATABASE PROPERTIES" => Some(Naming::Other),
        _ => None,
    }
}

/// A role that is named, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: String,
    pub at: Range<usize>,
}

/// Every place of `sql` that names a role; PUBLIC is none.
pub(super) fn places(sql: &str) -> Result<Vec<Place>, String> {
    let mut found = Vec::new();
    for statement in statements(sql).map_err(|why| why.to_string())? {
        let tokens = statement.tokens.as_slice();
        let named = named(&statement).ok_or_else(|| {
            let words: Vec<&str> = tokens.iter().take(3).map(|token| token.text).collect();
            format!("a statement that begins with {:?} is not understood", words.join(" "))
        })?;
        for token in named {
            let name = token.name().ok_or_else(|| "something else stands where a role is expected".to_owned())?;
            let start = token.text.as_ptr() as usize - sql.as_ptr() as usize;
            found.push(Place { name, at: start..start + token.text.len() });
        }
    }
    Ok(found)
}

/// `sql` with other roles in it.
pub(super) fn renamed(sql: &str, map: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(sql.len());
    let mut done = 0;
    for Place { name, at } in places(sql)? {
        if let Some(other) = map.get(&name) {
            out.push_str(&sql[done..at.start]);
            out.push_str(&quote_ident(other));
            done = at.end;
        }
    }
    out.push_str(&sql[done..]);
    Ok(out)
}

fn named<'t, 'a>(statement: &'t Statement<'a>) -> Option<Vec<&'t Token<'a>>> {
    let tokens = statement.tokens.as_slice();
    if statement.begins(&["RESET", "SESSION", "AUTHORIZATION"]) {
        return Some(Vec::new());
    }
    if statement.begins(&["SET", "SESSION", "AUTHORIZATION"]) {
        let role = tokens.get(3)?;
        return Some(if role.is_word("DEFAULT") { Vec::new() } else { vec![role] });
    }
    if statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]) {
        return grantees(tokens);
    }
    if statement.begins(&["ALTER", "DEFAULT", "PRIVILEGES", "FOR", "ROLE"]) {
        let rest = tokens.get(6..)?;
        return Some([tokens.get(5)?].into_iter().chain(grantees(rest)?).collect());
    }
    // Settings of a role in the database, and of the database.
    if statement.begins(&["ALTER", "ROLE"]) {
        return Some(vec![tokens.get(2)?]);
    }
    if statement.begins(&["ALTER", "DATABASE"]) || statement.begins(&["UPDATE", "pg_catalog"]) {
        return Some(Vec::new());
    }
    if statement.begins(&["CREATE", "POLICY"]) {
        let on = outside(tokens, &["ON"])?;
        let rest = &tokens[on..];
        // Without the clause a policy is for everybody.
        return match outside(rest, &["TO", "USING", "WITH"]) {
            Some(to) if rest[to].is_word("TO") => list(&rest[to + 1..]),
            _ => Some(Vec::new()),
        };
    }
    if statement.begins(&["DROP", "POLICY"]) {
        return Some(Vec::new());
    }
    if statement.begins(&["CREATE", "USER", "MAPPING"]) || statement.begins(&["DROP", "USER", "MAPPING"]) {
        let role = tokens.get(outside(tokens, &["FOR"])? + 1)?;
        return Some(if role.is_word("PUBLIC") { Vec::new() } else { vec![role] });
    }
    None
}

/// Those after TO or FROM, which follows what the right is on.
fn grantees<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<Vec<&'t Token<'a>>> {
    let on = outside(tokens, &["ON"])?;
    let rest = &tokens[on..];
    list(&rest[outside(rest, &["TO", "FROM"])? + 1..])
}

/// Names with commas between them, up to the next clause.
fn list<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<Vec<&'t Token<'a>>> {
    let mut names = Vec::new();
    let mut rest = tokens;
    loop {
        let (name, after) = rest.split_first()?;
        // Quoted it is somebody's name.
        if !name.is_word("PUBLIC") {
            names.push(name);
        }
        match after.split_first() {
            Some((comma, more)) if comma.text == "," => rest = more,
            None => return Some(names),
            Some((next, _)) if ["WITH", "USING", "GRANTED"].iter().any(|word| next.is_word(word)) => {
                return Some(names);
            }
            Some(_) => return None,
        }
    }
}

/// The first of these words that stands in no parentheses. Names that are words of SQL are quoted by `pg_dump`.
fn outside(tokens: &[Token<'_>], words: &[&str]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ if depth == 0 && words.iter().any(|word| token.is_word(word)) => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn roles_are_renamed_where_they_are_roles_and_nowhere_else() {
        let map = map(&[("app", "neu \"x\""), ("Wei rd", "w")]);
        let cases = [
            (
                "GRANT SELECT,UPDATE ON TABLE app.app TO app;\n",
                "GRANT SELECT,UPDATE ON TABLE app.app TO \"neu \"\"x\"\"\";\n",
            ),
            (
                "GRANT SELECT(app),INSERT(b) ON TABLE public.t TO \"Wei rd\" WITH GRANT OPTION;",
                "GRANT SELECT(app),INSERT(b) ON TABLE public.t TO \"w\" WITH GRANT OPTION;",
            ),
            (
                "REVOKE ALL ON FUNCTION public.app(app integer) FROM PUBLIC;\nREVOKE ALL ON FUNCTION public.app(app integer) FROM app;",
                "REVOKE ALL ON FUNCTION public.app(app integer) FROM PUBLIC;\nREVOKE ALL ON FUNCTION public.app(app integer) FROM \"neu \"\"x\"\"\";",
            ),
            (
                "SET SESSION AUTHORIZATION app;\nGRANT ALL ON TABLE \"to\".t TO other;\nRESET SESSION AUTHORIZATION;",
                "SET SESSION AUTHORIZATION \"neu \"\"x\"\"\";\nGRANT ALL ON TABLE \"to\".t TO other;\nRESET SESSION AUTHORIZATION;",
            ),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA app GRANT SELECT ON TABLES TO \"Wei rd\";",
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"neu \"\"x\"\"\" IN SCHEMA app GRANT SELECT ON TABLES TO \"w\";",
            ),
            (
                "CREATE POLICY app ON public.app FOR SELECT TO app, other USING ((app = 'app; TO app'::text));",
                "CREATE POLICY app ON public.app FOR SELECT TO \"neu \"\"x\"\"\", other USING ((app = 'app; TO app'::text));",
            ),
            ("CREATE POLICY p ON t USING ((app = 1));", "CREATE POLICY p ON t USING ((app = 1));"),
            (
                "CREATE USER MAPPING FOR app SERVER app OPTIONS (password 'app');",
                "CREATE USER MAPPING FOR \"neu \"\"x\"\"\" SERVER app OPTIONS (password 'app');",
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(renamed(sql, &map).unwrap(), expected);
        }
    }

    #[test]
    fn everybody_is_nobody_and_what_is_unknown_is_refused() {
        assert_eq!(places("GRANT ALL ON SCHEMA s TO PUBLIC;").unwrap(), []);
        assert_eq!(places("GRANT ALL ON SCHEMA s TO \"PUBLIC\";").unwrap().len(), 1);
        for sql in ["GRANT a TO b;", "SECURITY LABEL ON TABLE t IS 'x';", "GRANT ALL ON TABLE t TO a b;", "GRANT x"] {
            assert!(renamed(sql, &BTreeMap::new()).is_err(), "{sql}");
        }
    }
}
