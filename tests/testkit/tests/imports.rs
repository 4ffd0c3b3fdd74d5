//! No file of a service or of a shared crate imports, directly or through others, a file that
//! imports it. Declarations (`mod x;`), unit tests and a folder's re-exports of its own children
//! don't count; a name that is imported through a re-export counts as the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module's path inside its crate; empty for the root.
type Module = Vec<String>;

/// One path of a file, such as `crate::fold::Batch`, and the name it is imported under.
struct Import {
    path: Vec<String>,
    name: String,
    public: bool,
}

/// The modules of a crate, each with its file and what it imports.
#[derive(Default)]
struct Crate(BTreeMap<Module, (PathBuf, Vec<Import>)>);

#[test]
fn no_file_is_imported_by_its_own_imports() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository");
    let crates = ["like-api", "like-aggregator", "crates/like-common", "crates/like-events"];
    let cycles: String = crates.iter().map(|name| Crate::read(&root.join(name).join("src")).cycles(&root)).collect();
    assert!(cycles.is_empty(), "import cycles:\n{cycles}");
}

impl Crate {
    fn read(src: &Path) -> Self {
        let mut modules = Self::default();
        modules.read_folder(src, &Module::new());
        modules
    }

    fn read_folder(&mut self, folder: &Path, module: &Module) {
        for entry in folder.read_dir().expect("a folder of sources") {
            let path = entry.expect("a file").path();
            let stem = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
            let module =
                if ["lib", "mod"].contains(&&*stem) { module.clone() } else { [&module[..], &[stem]].concat() };
            if path.is_dir() {
                self.read_folder(&path, &module);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let mut imports = Vec::new();
                scan(tokens, false, &mut imports);
                self.0.insert(module, (path, imports));
            }
        }
    }

    /// The module that defines what `path` names in `from`; None for a path that leaves the crate.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<Module> {
        let mut module = if path[0] == "crate" { Module::new() } else { from.clone() };
        // A path that begins with a name is one of this crate only where it begins with a child.
        let bare = !["crate", "self", "super"].contains(&&*path[0]);
        if bare && !self.0.contains_key(&[&module[..], &path[..1]].concat()) {
            return None;
        }
        for (i, segment) in path.iter().enumerate() {
            let child = [&module[..], std::slice::from_ref(segment)].concat();
            if segment == "super" {
                module.pop();
            } else if self.0.contains_key(&child) {
                module = child;
            } else if !["crate", "self"].contains(&&**segment) {
                let reexports = self.0.get(&module).into_iter().flat_map(|(_, imports)| imports);
                let mut named = reexports.filter(|import| import.public && import.name == *segment);
                let target = named.find_map(|import| self.resolve(&module, &import.path));
                // A module that is re-exported under another folder may have the rest of the path.
                return match target {
                    Some(target) if i + 1 < path.len() => {
                        self.resolve(&target, &[&["self".to_owned()], &path[i + 1..]].concat())
                    }
                    target => target.or(Some(module)),
                };
            }
        }
        Some(module)
    }

    /// One line for each import that is part of a cycle, one paragraph for each cycle.
    fn cycles(&self, root: &Path) -> String {
        let mut edges: BTreeMap<&Module, BTreeMap<Module, String>> = BTreeMap::new();
        for (from, (_, imports)) in &self.0 {
            for import in imports {
                let Some(to) = self.resolve(from, &import.path) else { continue };
                let reexport = import.public && to.starts_with(from);
                if to != *from && !reexport && self.0.contains_key(&to) {
                    edges.entry(from).or_default().insert(to, import.path.join("::"));
                }
            }
        }
        let reachable = |from: &Module| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(module) = next.pop() {
                let new = edges.get(&module).into_iter().flat_map(|to| to.keys()).filter(|to| !seen.contains(*to));
                let new: Vec<_> = new.cloned().collect();
                seen.extend(new.iter().cloned());
                next.extend(new);
            }
            seen
        };
        let reach: BTreeMap<&Module, BTreeSet<Module>> = self.0.keys().map(|from| (from, reachable(from))).collect();
        let mut cycles: BTreeMap<&Module, String> = BTreeMap::new();
        for (from, to, path) in edges.iter().flat_map(|(from, to)| to.iter().map(move |(to, path)| (*from, to, path))) {
            if reach[to].contains(from) {
                let first = reach[from].iter().find(|other| reach[*other].contains(from)).expect("the cycle");
                let file = |module| self.0[module].0.strip_prefix(root).expect("inside").display();
                let line = format!("  {} -> {} ({path})\n", file(from), file(to));
                cycles.entry(self.0.get_key_value(first).expect("known").0).or_default().push_str(&line);
            }
        }
        cycles.into_values().map(|lines| lines + "\n").collect()
    }
}

/// Collects all paths of some tokens except those in `#[cfg(test)]` items.
fn scan(tokens: TokenStream, mut public: bool, imports: &mut Vec<Import>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|token| token.to_string() == text);
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            TokenTree::Group(group) if is(i.wrapping_sub(1), "#") && group.stream().to_string() == "cfg (test)" => {
                let ends = |token: &TokenTree| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    token => token.to_string() == ";",
                };
                i += tokens[i..].iter().position(ends).unwrap_or(tokens.len());
            }
            TokenTree::Group(group) => scan(group.stream(), public, imports),
            TokenTree::Ident(word) if word == "use" => {
                public = is(i.wrapping_sub(1), "pub") || is(i.wrapping_sub(2), "pub");
            }
            TokenTree::Ident(_) if is(i + 1, ":") && is(i + 2, ":") => {
                i = paths(&tokens, i, &[], public, imports);
                continue;
            }
            token => public = public && token.to_string() != ";",
        }
        i += 1;
    }
}

/// Reads one path or tree of paths from `tokens[i]` and returns where it ends.
fn paths(tokens: &[TokenTree], mut i: usize, before: &[String], public: bool, imports: &mut Vec<Import>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(i) {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let tree: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut at = 0;
                while at < tree.len() {
                    at = paths(&tree, at, &path, public, imports) + 1;
                }
                return i + 1;
            }
            Some(TokenTree::Ident(word)) => path.push(word.to_string()),
            // A glob, or the generic arguments of a path in code.
            _ => {}
        }
        if tokens.get(i + 1).is_none_or(|token| token.to_string() != ":") {
            break;
        }
        i += 3;
    }
    let renamed = tokens.get(i + 1).is_some_and(|token| token.to_string() == "as");
    let name = if renamed { tokens[i + 2].to_string() } else { path.last().cloned().unwrap_or_default() };
    imports.push(Import { path, name, public });
    i + if renamed { 3 } else { 1 }
}
