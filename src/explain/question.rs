//! A question about a request in words: what `tidegate explain` is told, and what it asks a running process with.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Version};
use serde::{Deserialize, Serialize};

use crate::config::model::{Asked, BadRequest, is_protocol};

/// The body of `POST /explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// GET where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// With scheme and host.
    pub url: String,
    /// Names and values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The name of a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// `1.0`, `1.1`, `2` or `3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// A protocol to switch to: by Upgrade, or by extended CONNECT where there are streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// The name of the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Protocols that the client offers in its handshake.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
}

/// What is wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// Its method or address.
    #[error("{0}")]
    Request(#[from] BadRequest),
    /// A header.
    #[error("`{0}` is not a header")]
    Header(String),
    /// The client.
    #[error("`{0}` is not an IP address")]
    Client(String),
    /// The protocol to switch to.
    #[error("`{0}` is no name of a protocol")]
    Upgrade(String),
    /// The version.
    #[error("`{0}` is not an HTTP version: use 1.0, 1.1, 2 or 3")]
    Version(String),
}

impl BadQuestion {
    /// What to write instead on a command line.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Request(_) => "write `tidegate explain GET https://example.org/path`",
            Self::Header(_) => "write -H 'name: value'",
            Self::Client(_) => "write --client 192.0.2.1",
            Self::Upgrade(_) => "write --upgrade websocket",
            Self::Version(_) => "write --http 1.1, 2 or 3",
        }
    }
}

impl Question {
    /// The request that it is about.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn asked(&self) -> Result<Asked, BadQuestion> {
        let asked = Asked::new(self.method.as_deref(), &self.url)?;
        let header = |(name, value): &(String, String)| {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            parsed.ok_or_else(|| BadQuestion::Header(format!("{name}: {value}")))
        };
        let client = self.client.as_ref().map(|text| text.parse().map_err(|_| BadQuestion::Client(text.clone())));
        Ok(Asked {
            headers: self.headers.iter().map(header).collect::<Result<_, _>>()?,
            client: client.transpose()?,
            listener: self.listener.as_deref().map(Into::into),
            version: self.http.as_deref().map(version).transpose()?,
            upgrade: self.upgrade.as_deref().map(upgrade).transpose()?,
            sni: self.sni.as_deref().map(Into::into),
            alpn: self.alpn.iter().map(|alpn| alpn.as_str().into()).collect(),
            ..asked
        })
    }
}

fn upgrade(text: &str) -> Result<Arc<str>, BadQuestion> {
    if is_protocol(text) { Ok(text.into()) } else { Err(BadQuestion::Upgrade(text.to_owned())) }
}

/// As people write it: `2`, `HTTP/2`, `http2`, `h2`.
fn version(text: &str) -> Result<Version, BadQuestion> {
    let bare = text.to_ascii_lowercase();
    let bare = bare.trim_start_matches("http").trim_start_matches('h').trim_start_matches('/');
    match bare {
        "1.0" => Ok(Version::HTTP_10),
        "1" | "1.1" => Ok(Version::HTTP_11),
        "2" | "2.0" => Ok(Version::HTTP_2),
        "3" | "3.0" => Ok(Version::HTTP_3),
        _ => Err(BadQuestion::Version(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_in_many_ways() {
        for (text, expected) in
            [("2", Version::HTTP_2), ("HTTP/3", Version::HTTP_3), ("h2", Version::HTTP_2), ("1.0", Version::HTTP_10)]
        {
            assert_eq!(version(text), Ok(expected), "{text}");
        }
        assert!(version("4").is_err() && version("").is_err());
    }

    #[test]
    fn a_question_says_what_is_wrong_with_it() {
        let question = |url: &str| Question { url: url.into(), ..Question::default() };
        assert_eq!(question("a").asked().unwrap_err(), BadQuestion::Request(BadRequest::Address));
        let bad = Question { client: Some("me".into()), ..question("http://a/") };
        assert_eq!(bad.asked().unwrap_err(), BadQuestion::Client("me".into()));
        let bad = Question { headers: vec![("a b".into(), "c".into())], ..question("http://a/") };
        assert!(bad.asked().is_err());
        let bad = Question { upgrade: Some("a b".into()), ..question("http://a/") };
        assert_eq!(bad.asked().unwrap_err(), BadQuestion::Upgrade("a b".into()));
    }
}
