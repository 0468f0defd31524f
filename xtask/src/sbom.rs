//! The bill of materials of one binary: CycloneDX 1.5, JSON. Only what is linked in, not what built it: procedural
//! macros and build scripts are left out, the standard library is named.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use crate::checkout::{Arch, Checkout, Program};
use crate::process;

/// A package with everything the bill says about it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Package {
    license: String,
    needs: BTreeSet<String>,
}

/// Packages by package URL, as `pkg:cargo/NAME@VERSION`.
type Packages = BTreeMap<String, Package>;

pub(crate) fn bill(checkout: &Checkout, program: Program, arch: Arch, date: &str) -> Result<String> {
    let fixed =
        ["tree", "--locked", "--package", "rigd", "--target", program.triple(arch), "--edges", "normal,no-proc-macro"];
    let shown = ["--no-dedupe", "--prefix", "depth", "--format", "\t{p}\t{l}"];
    let tree = process::output(checkout.cargo(&fixed).args(program.features()).args(shown))?;
    let lock = std::fs::read_to_string(checkout.root().join("Cargo.lock"))?;
    let rustc = process::output(checkout.command("rustc").arg("--version"))?;
    let std_version = rustc.split(' ').nth(1).context("rustc --version")?;
    let (root, packages) = packages(&tree)?;
    Ok(document(program, &root, &packages, &checksums(&lock), std_version, date))
}

/// Reads what `cargo tree --prefix depth` prints: depth, name and version, licence; the root first.
fn packages(tree: &str) -> Result<(String, Packages)> {
    let mut packages = Packages::new();
    let mut above: Vec<String> = Vec::new();
    for line in tree.lines() {
        let mut columns = line.split('\t');
        let mut column = || columns.next().with_context(|| format!("cargo tree: {line}"));
        let depth: usize = column()?.parse()?;
        let mut words = column()?.split(' ');
        let name = words.next().unwrap_or_default();
        let version =
            words.next().and_then(|word| word.strip_prefix('v')).with_context(|| format!("cargo tree: {line}"))?;
        let package = format!("pkg:cargo/{name}@{version}");
        above.truncate(depth);
        if let Some(parent) = above.last().and_then(|parent| packages.get_mut(parent)) {
            parent.needs.insert(package.clone());
        }
        // The old way to write "either".
        packages.entry(package.clone()).or_default().license = column()?.replace('/', " OR ");
        above.push(package);
    }
    let root = above.into_iter().next().context("cargo tree printed nothing")?;
    Ok((root, packages))
}

/// SHA-256 of each package from crates.io, by package URL.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").filter_map(|package| {
        let (name, version) = (value(package, "name")?, value(package, "version")?);
        Some((format!("pkg:cargo/{name}@{version}"), value(package, "checksum")?))
    });
    packages.collect()
}

fn document(
    program: Program,
    root: &str,
    packages: &Packages,
    checksums: &BTreeMap<String, String>,
    std_version: &str,
    date: &str,
) -> String {
    let std = format!("pkg:generic/rust-std@{std_version}");
    let mut components = vec![format!(
        "{}, \"description\": \"Rust's standard library, with the musl C library of its target\"}}",
        component("library", &std, "MIT OR Apache-2.0")
    )];
    let mut dependencies = vec![format!("{{\"ref\": {}}}", quoted(&std))];
    for (url, Package { license, needs }) in packages {
        if url != root {
            let hash = checksums
                .get(url)
                .map(|hash| format!(", \"hashes\": [{{\"alg\": \"SHA-256\", \"content\": {}}}]", quoted(hash)));
            components.push(format!("{}{}}}", component("library", url, license), hash.unwrap_or_default()));
        }
        let needs: Vec<_> = needs.iter().chain([&std]).map(|need| quoted(need)).collect();
        dependencies.push(format!("{{\"ref\": {}, \"dependsOn\": [{}]}}", quoted(url), needs.join(", ")));
    }
    let license = packages.get(root).map_or("", |package| &package.license);
    let described = component("application", root, license).replacen(
        "\"name\": \"rigd\"",
        &format!("\"name\": {}", quoted(program.name())),
        1,
    );
    format!(
        "{{\n\"bomFormat\": \"CycloneDX\",\n\"specVersion\": \"1.5\",\n\"version\": 1,\n\
         \"metadata\": {{\"timestamp\": {}, \"component\": {described}}}}},\n\
         \"components\": [\n{}\n],\n\"dependencies\": [\n{}\n]\n}}\n",
        quoted(date),
        components.join(",\n"),
        dependencies.join(",\n")
    )
}

/// A component without its closing brace.
fn component(kind: &str, url: &str, license: &str) -> String {
    let (_, name_version) = url.rsplit_once('/').unwrap_or_default();
    let (name, version) = name_version.split_once('@').unwrap_or_default();
    let [kind, reference, name, version, license] = [kind, url, name, version, license].map(quoted);
    format!(
        "{{\"type\": {kind}, \"bom-ref\": {reference}, \"name\": {name}, \"version\": {version}, \
         \"purl\": {reference}, \"licenses\": [{{\"expression\": {license}}}]"
    )
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            ' '.. => json.push(char),
            _ => json.push_str(&format!("\\u{:04x}", u32::from(char))),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// The shape of a tree with a package that two others need.
    const TREE: &str = "0\trigd v0.1.0 (/somewhere)\tApache-2.0 OR MIT\n1\ta v1.0.0\tMIT/Apache-2.0\n2\tc v0.2.0\tMIT\n1\tb v2.0.0\tMIT\n2\tc v0.2.0\tMIT\n";
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"c\"\nversion = \"0.2.0\"\nsource = \"x\"\nchecksum = \"12ab\"\n\n[[package]]\nname = \"rigd\"\nversion = \"0.1.0\"\n";

    #[test]
    fn a_shared_dependency_is_listed_once_and_needed_twice() {
        let (root, packages) = packages(TREE).unwrap();
        assert_eq!(root, "pkg:cargo/rigd@0.1.0");
        let needs = |url: &str| packages.get(url).unwrap().needs.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(packages.len(), 4);
        assert_eq!(needs("pkg:cargo/rigd@0.1.0"), "pkg:cargo/a@1.0.0 pkg:cargo/b@2.0.0");
        assert_eq!(needs("pkg:cargo/a@1.0.0"), "pkg:cargo/c@0.2.0");
        assert_eq!(needs("pkg:cargo/b@2.0.0"), "pkg:cargo/c@0.2.0");
        assert_eq!(packages.get("pkg:cargo/a@1.0.0").unwrap().license, "MIT OR Apache-2.0");
    }

    #[test]
    fn only_packages_of_a_registry_have_a_checksum() {
        assert_eq!(checksums(LOCK), BTreeMap::from([("pkg:cargo/c@0.2.0".to_owned(), "12ab".to_owned())]));
    }

    #[test]
    fn json_strings_are_escaped() {
        for (text, json) in [("a b", r#""a b""#), ("\"\\", r#""\"\\""#), ("\n", r#""\u000a""#), ("m°C", r#""m°C""#)] {
            assert_eq!(quoted(text), json);
        }
    }
}
