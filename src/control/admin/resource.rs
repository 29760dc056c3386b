//! The paths of the admin and observe listeners, with their methods; `docs/openapi.json` describes them.

use http::Method;

/// Something that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The status page.
    Page,
    /// Whether the process lives.
    Health,
    /// Whether new work should be sent here.
    Readiness,
    /// OpenMetrics.
    Metrics,
    /// Everything the page shows, as JSON.
    Status,
    /// The configuration in force.
    Configuration,
    /// What would become of a request.
    Explain,
    /// Read the file again.
    Reload,
    /// Take no new work: the process, or one endpoint.
    Drain,
    /// The level of the process's log.
    LogLevel,
}

impl Resource {
    /// Each with its path.
    pub const ALL: [(&'static str, Self); 10] = [
        ("/", Self::Page),
        ("/healthz", Self::Health),
        ("/readyz", Self::Readiness),
        ("/metrics", Self::Metrics),
        ("/status", Self::Status),
        ("/config", Self::Configuration),
        ("/explain", Self::Explain),
        ("/reload", Self::Reload),
        ("/drain", Self::Drain),
        ("/log-level", Self::LogLevel),
    ];

    /// What is at a path.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == path).map(|(_, resource)| *resource)
    }

    /// Whether it is there for admin alone.
    pub fn is_for_admin(self) -> bool {
        matches!(self, Self::Configuration | Self::Explain | Self::Reload | Self::Drain | Self::LogLevel)
    }

    /// Its methods, as `Allow` names them. Whatever knows GET knows HEAD (RFC 9110 §9.1).
    pub fn allowed(self) -> &'static str {
        match self {
            Self::Explain | Self::Reload | Self::Drain => "POST",
            Self::LogLevel => "GET, HEAD, PUT",
            _ => "GET, HEAD",
        }
    }

    /// Whether it knows a method.
    pub fn allows(self, method: &Method) -> bool {
        self.allowed().split(", ").any(|allowed| allowed == method.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_every_path_and_method_and_no_other() {
        let description = include_str!("../../../docs/openapi.json");
        let description: serde_json::Value = serde_json::from_str(description).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
                described.insert((path.clone(), method.to_ascii_uppercase()));
                assert!(operation["operationId"].is_string(), "{method} {path}");
                let for_admin = operation["tags"] == serde_json::json!(["admin"]);
                assert_eq!(for_admin, Resource::at(path).is_some_and(Resource::is_for_admin), "{method} {path}");
            }
        }
        let methods = |resource: Resource| resource.allowed().split(", ").map(str::to_owned);
        let known = Resource::ALL.iter().flat_map(|(path, resource)| methods(*resource).map(|m| (path.to_string(), m)));
        assert_eq!(described, known.collect());
    }

    #[test]
    fn head_is_known_wherever_get_is() {
        for (path, resource) in Resource::ALL {
            assert_eq!(resource.allows(&Method::GET), resource.allows(&Method::HEAD), "{path}");
            assert!(!resource.allows(&Method::OPTIONS) && !resource.allows(&Method::DELETE), "{path}");
        }
    }
}
