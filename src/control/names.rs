//! The resolver for the destinations of clients (forward mode): each address family separately, so that neither waits
//! for the other (RFC 8305 §3). Lookups run on the requesting worker without blocking it; the cache is shared by all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::base::error::{Error, Kind, Retry};
use crate::net::resolve::{Family, Lookup, Names};

/// Names that are remembered for as long as their TTL allows, in each family.
const REMEMBERED: u64 = 4096;
/// A longer TTL would keep an address that moved for too long.
const LONGEST: Duration = Duration::from_secs(300);
/// How long it is believed that a name has no address.
const LONGEST_ABSENCE: Duration = Duration::from_secs(10);
/// How long one name server is waited for.
const ONE_TRY: Duration = Duration::from_secs(2);

/// Name servers that are given, or else the system's, with its `/etc/hosts` and search domains.
pub struct Resolvers([Result<TokioResolver, Arc<str>>; 2]);

impl Resolvers {
    /// Asks `name_servers`; none: those of the system. Where its settings cannot be read every lookup fails, saying so.
    pub fn new(name_servers: &[SocketAddr]) -> Self {
        Self([LookupIpStrategy::Ipv4Only, LookupIpStrategy::Ipv6Only].map(|family| resolver(name_servers, family)))
    }
}

fn resolver(name_servers: &[SocketAddr], family: LookupIpStrategy) -> Result<TokioResolver, Arc<str>> {
    let said = |error: NetError| Arc::from(error.to_string());
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio().map_err(said)?
    } else {
        let servers = name_servers.iter().map(|server| {
            let at = |protocol| {
                let mut connection = ConnectionConfig::new(protocol);
                connection.port = server.port();
                connection
            };
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections = vec![at(ProtocolConfig::Udp), at(ProtocolConfig::Tcp)];
            config
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.ip_strategy = family;
    options.cache_size = REMEMBERED;
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(LONGEST_ABSENCE);
    options.timeout = ONE_TRY;
    builder.build().map_err(said)
}

impl Names for Resolvers {
    fn lookup(&self, host: Arc<str>, family: Family) -> Lookup {
        let resolver = self.0[usize::from(family == Family::V6)].clone();
        // The name itself, and nothing that a search domain would make of it: the rules were asked of the name.
        let name = format!("{host}.");
        Lookup::new(async move {
            let failed = |kind, reason, cause: String| Error::upstream(kind, Retry::Never, reason).because(cause);
            let resolver = resolver.map_err(|cause| failed(Kind::DnsError, NO_SETTINGS, cause.to_string()))?;
            match resolver.lookup_ip(&*name).await {
                Ok(found) => Ok(found.iter().filter(|address| family.has(*address)).collect()),
                Err(error) if is_timeout(&error) => Err(failed(Kind::DnsTimeout, NO_ANSWER, error.to_string())),
                Err(error) => Err(failed(Kind::DnsError, NO_ADDRESS, error.to_string())),
            }
        })
    }
}

impl Family {
    fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

fn is_timeout(error: &NetError) -> bool {
    matches!(error, NetError::Timeout)
}

const NO_SETTINGS: &str = "the system's resolver configuration cannot be read";
const NO_ANSWER: &str = "no name server answered in time";
const NO_ADDRESS: &str = "the name has no address";
