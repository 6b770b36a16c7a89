//! The route in what EXPLAIN answers: lines before the plan of a text, and properties of the query in the other formats, which stay
//! what their readers know.
//!
//! <https://www.postgresql.org/docs/current/sql-explain.html>: JSON, XML and YAML are one value, with an object for each query.

use crate::sql::touch::Explains;

/// What is told of a query beside its plan: names and values.
pub type Properties<'a> = [(&'a str, &'a str)];

/// A plan in one of the formats that are one value, with these properties of its first query before all others; none: it is not of the
/// form that is known, or a text.
#[must_use]
pub fn with(format: Explains, plan: &str, properties: &Properties<'_>) -> Option<String> {
    let (before, indent, after) = begin(format, plan)?;
    let mut out = String::with_capacity(plan.len() + 256);
    out.push_str(before);
    for (at, (name, value)) in properties.iter().enumerate() {
        // What stands before the first property stands there already.
        let indent = if at == 0 && format == Explains::Yaml { "" } else { indent };
        match format {
            Explains::Text => return None,
            Explains::Json => out.push_str(&format!("{indent}{}: {},\n", quoted(name), quoted(value))),
            Explains::Yaml => out.push_str(&format!("{indent}{name}: {}\n", quoted(value))),
            Explains::Xml => {
                let tag = name.replace(' ', "-");
                out.push_str(&format!("{indent}<{tag}>{}</{tag}>\n", escaped(value)));
            }
        }
    }
    if format == Explains::Yaml && !properties.is_empty() {
        out.push_str(indent);
    }
    out.push_str(after);
    Some(out)
}

/// Several such values as one; none: they are not of the form that is known.
#[must_use]
pub fn joined(format: Explains, plans: &[String]) -> Option<String> {
    let inner = |plan: &String| -> Option<String> {
        let plan = plan.trim_end();
        Some(match format {
            Explains::Text => return None,
            Explains::Json => plan.strip_prefix("[\n")?.strip_suffix("\n]")?.to_owned(),
            Explains::Xml => {
                let (_, queries) = plan.split_once('\n').filter(|(head, _)| head.starts_with("<explain"))?;
                queries.strip_suffix("\n</explain>")?.to_owned()
            }
            Explains::Yaml => plan.to_owned(),
        })
    };
    let all = plans.iter().map(inner).collect::<Option<Vec<_>>>()?;
    Some(match format {
        Explains::Text => return None,
        Explains::Json => format!("[\n{}\n]", all.join(",\n")),
        Explains::Xml => {
            let head = plans.first()?.split_once('\n')?.0;
            format!("{head}\n{}\n</explain>", all.join("\n"))
        }
        Explains::Yaml => all.join("\n"),
    })
}

/// Where the first property of the first query begins: what stands before it, how properties are indented, and the rest.
fn begin(format: Explains, plan: &str) -> Option<(&str, &str, &str)> {
    let opening = match format {
        Explains::Text => return None,
        Explains::Json => "  {\n",
        Explains::Xml => "  <Query>\n",
        Explains::Yaml => "- ",
    };
    let at = plan.find(opening)?;
    let at_begin = match format {
        Explains::Json => plan.get(..at)? == "[\n",
        Explains::Xml => plan.starts_with("<explain") && plan.get(..at)?.ends_with(">\n"),
        Explains::Text | Explains::Yaml => at == 0,
    };
    let (before, after) = plan.split_at_checked(at.checked_add(opening.len())?)?;
    let indent = if format == Explains::Yaml { "  " } else { "    " };
    at_begin.then_some((before, indent, after))
}

/// A string of JSON, which YAML reads as well.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn escaped(text: &str) -> String {
    let without_controls: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    without_controls.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "[\n  {\n    \"Plan\": {\n      \"Node Type\": \"Result\"\n    }\n  }\n]";
    const XML: &str = "<explain xmlns=\"http://www.postgresql.org/2009/explain\">\n  <Query>\n    <Plan>\n    </Plan>\n  </Query>\n</explain>";
    const YAML: &str = "- Plan: \n    Node Type: \"Result\"";
    const ROUTE: [(&str, &str); 2] = [("Shard", "s\"1"), ("Sharding Route", "a < b")];

    #[test]
    fn the_route_is_a_property_of_the_query() {
        let json = with(Explains::Json, JSON, &ROUTE).unwrap();
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&read[0]["Shard"], &read[0]["Sharding Route"]), (&"s\"1".into(), &"a < b".into()));
        assert_eq!(read[0]["Plan"]["Node Type"], "Result");
        let xml = with(Explains::Xml, XML, &ROUTE).unwrap();
        assert!(xml.contains(
            "  <Query>\n    <Shard>s\"1</Shard>\n    <Sharding-Route>a &lt; b</Sharding-Route>\n    <Plan>\n"
        ));
        let yaml = with(Explains::Yaml, YAML, &ROUTE).unwrap();
        assert_eq!(yaml, "- Shard: \"s\\\"1\"\n  Sharding Route: \"a < b\"\n  Plan: \n    Node Type: \"Result\"");
    }

    #[test]
    fn plans_become_one_value() {
        let json = joined(Explains::Json, &[JSON.to_owned(), JSON.to_owned()]).unwrap();
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read.as_array().map(Vec::len), Some(2));
        let xml = joined(Explains::Xml, &[XML.to_owned(), XML.to_owned()]).unwrap();
        assert_eq!((xml.matches("<Query>").count(), xml.matches("explain>").count()), (2, 1));
        assert_eq!(joined(Explains::Yaml, &[YAML.to_owned(), YAML.to_owned()]).unwrap(), format!("{YAML}\n{YAML}"));
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        for format in [Explains::Text, Explains::Json, Explains::Xml, Explains::Yaml] {
            for plan in ["", "Result", "{}", "[\n]", "x- Plan", "<explain>", "<Query>", "\n  {\n"] {
                assert_eq!(with(format, plan, &ROUTE), None, "{format:?} {plan}");
            }
        }
        assert_eq!(joined(Explains::Json, &["{}".to_owned()]), None);
    }
}
