// Package tests holds what is tested from outside: the house rules here, and in the directories below the mount beside
// plain directories (metamorphic, mount), with its keys in a KMS (kmsmount) and rewrapped (rotate), in reverse (reverse), under kill -9 (crash), and its speed beside
// its peers (peerbench).
package tests

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// layers are the arrows of the architecture: what each package, and those below it, may import of this module.
func layers() map[string][]string {
	below := []string{"fs/vault", "envelope", "keysource", "fs/backing"}
	return map[string][]string{
		"cmd":        append([]string{"cmd", "fs"}, below...),
		"fs":         below,
		"fs/vault":   below,
		"fs/backing": {"fs/backing"},
		"envelope":   {"envelope"},
		"keysource":  {"keysource"},
		"tests":      append([]string{"tests", "cmd", "fs"}, below...),
	}
}

// source is one parsed file.
type source struct {
	path string // from the module's root
	file *ast.File
	fset *token.FileSet
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

func parse(t *testing.T, path string, src any) source {
	t.Helper()
	s := source{path: path, fset: token.NewFileSet()}
	var err error
	if s.file, err = parser.ParseFile(s.fset, filepath.Join("..", path), src, parser.ParseComments|parser.SkipObjectResolution); err != nil {
		t.Fatal(err)
	}
	return s
}

// packages are the module's sources by directory.
func packages(t *testing.T) map[string][]source {
	t.Helper()
	all := map[string][]source{}
	files(t, func(path string) {
		if strings.HasSuffix(path, ".go") {
			all[filepath.Dir(path)] = append(all[filepath.Dir(path)], parse(t, path, nil))
		}
	})
	if len(all) < 5 {
		t.Fatalf("only %d packages were found", len(all))
	}
	return all
}

// files calls use for every file of the repository, with its path from the root.
func files(t *testing.T, use func(path string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() == ".git":
			return filepath.SkipDir
		case e.Name() == ".git": // a linked worktree has a file there, which is not of the repository
		case e.Type().IsRegular():
			rel, err := filepath.Rel("..", path)
			use(rel)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHouse holds every source against the rules of the house.
func TestHouse(t *testing.T) {
	for dir, sources := range packages(t) {
		for _, finding := range check(dir, sources) {
			t.Error(finding)
		}
	}
}

// check holds one package against all rules.
func check(dir string, sources []source) []string {
	var found []string
	documented := false
	for _, s := range sources {
		documented = documented || s.file.Doc != nil
		found = append(found, imports(dir, s)...)
		if !s.test() {
			found = append(found, slices.Concat(functions(s), exported(s))...)
		}
	}
	if !documented {
		found = append(found, dir+": the package has no comment")
	}
	return append(found, variables(sources)...)
}

// imports holds the arrows, that envelope is pure, and that fs alone speaks to the kernel.
func imports(dir string, s source) []string {
	var found []string
	layer := dir
	for layers()[layer] == nil && layer != "." {
		layer = filepath.Dir(layer)
	}
	if layer == "." {
		return []string{s.path + ": belongs to none of the top-level folders"}
	}
	for _, imp := range s.file.Imports {
		path, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return []string{s.at(imp) + ": " + err.Error()}
		}
		inner, ours := strings.CutPrefix(path, "kmsfs/")
		switch {
		case ours && !s.test() && !within(inner, layers()[layer]):
			found = append(found, fmt.Sprintf("%s: %s may not import %s", s.at(imp), dir, path))
		case layer == "envelope" && !s.test() && within(path, []string{"os", "net", "log", "syscall", "golang.org/x/sys/unix"}):
			found = append(found, fmt.Sprintf("%s: envelope is bytes in, bytes out, and may not import %s", s.at(imp), path))
		case within(path, []string{"github.com/hanwen/go-fuse"}) && dir != "fs" && layer != "tests":
			found = append(found, s.at(imp)+": only fs may import go-fuse")
		}
	}
	return found
}

// within says whether path is one of roots or below it.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

// functions forbids init, and ending the process anywhere but in a command.
func functions(s source) []string {
	var found []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				found = append(found, s.at(n)+": init()")
			}
		case *ast.CallExpr:
			if name := selector(n.Fun); s.file.Name.Name != "main" && (name == "os.Exit" || strings.HasPrefix(name, "log.Fatal")) {
				found = append(found, fmt.Sprintf("%s: %s outside a command", s.at(n), name))
			}
		}
		return true
	})
	return found
}

// selector is the text of a name like os.Exit.
func selector(e ast.Expr) string {
	if sel, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := sel.X.(*ast.Ident); ok {
			return x.Name + "." + sel.Sel.Name
		}
	}
	return ""
}

// exported wants a comment at every exported name but Error and Unwrap, of which there is nothing to say.
func exported(s source) []string {
	var found []string
	want := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if name.IsExported() && name.Name != "Error" && name.Name != "Unwrap" && !slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d != nil }) {
			found = append(found, fmt.Sprintf("%s: %s has no comment", s.at(name), name.Name))
		}
	}
	for _, decl := range s.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type)) {
				want(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					want(spec.Name, d.Doc, spec.Doc)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						want(name, d.Doc, spec.Doc, spec.Comment)
					}
				}
			}
		}
	}
	return found
}

// receiver is the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// variables forbids package-level variables that change: they must begin as an error, a compiled constant or a literal,
// and nothing in the package may assign to them or take their address.
func variables(sources []source) []string {
	var found []string
	known := map[string]bool{}
	for _, s := range sources {
		if s.test() {
			continue
		}
		for _, decl := range s.file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					known[name.Name] = true
					if name.Name != "_" && (i >= len(v.Values) || !constant(v.Values[i])) {
						found = append(found, fmt.Sprintf("%s: the variable %s is state of the package", s.at(name), name.Name))
					}
				}
			}
		}
	}
	for _, s := range sources {
		if !s.test() {
			found = append(found, changes(s, known)...)
		}
	}
	return found
}

// constant says whether a variable that begins as e can be meant never to change.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CompositeLit, *ast.BasicLit:
		return true
	case *ast.CallExpr:
		name := selector(e.Fun)
		if sel, ok := e.Fun.(*ast.SelectorExpr); ok && name == "" {
			return constant(sel.X) // base64.NewEncoding(...).WithPadding(...)
		}
		return slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile", "template.Must",
			"base64.NewEncoding", "base32.NewEncoding"}, name)
	}
	return false
}

// changes finds assignments to the known variables and to what is in them. A local variable of the same name counts
// too: it would only confuse.
func changes(s source, known map[string]bool) []string {
	var found []string
	changed := func(n ast.Node, target ast.Expr) {
		if name := root(target); known[name] && name != "_" {
			found = append(found, fmt.Sprintf("%s: the package's variable %s is changed", s.at(n), name))
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, target := range n.Lhs {
				changed(n, target)
			}
		case *ast.IncDecStmt:
			changed(n, n.X)
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				changed(n, n.X)
			}
		}
		return true
	})
	return found
}

// root is the variable that an expression like a.b[c] is in.
func root(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return root(e.X)
	case *ast.SelectorExpr:
		return root(e.X)
	case *ast.StarExpr:
		return root(e.X)
	}
	return ""
}

// TestRules shows that each rule finds what it forbids.
func TestRules(t *testing.T) {
	for name, c := range map[string]struct{ path, src, want string }{
		"arrow":       {"envelope/a.go", `import "kmsfs/keysource"`, "may not import"},
		"arrow up":    {"fs/vault/a.go", `import "kmsfs/fs"`, "may not import"},
		"pure":        {"envelope/a.go", `import "log/slog"`, "bytes in, bytes out"},
		"fuse":        {"fs/vault/a.go", `import "github.com/hanwen/go-fuse/v2/fuse"`, "only fs"},
		"folder":      {"util/a.go", ``, "none of the top-level folders"},
		"init":        {"fs/a.go", `func init() {}`, "init()"},
		"exit":        {"fs/a.go", `func f() { os.Exit(1) }`, "os.Exit"},
		"fatal":       {"fs/a.go", `func f() { log.Fatalf("") }`, "log.Fatalf"},
		"function":    {"fs/a.go", `func F() {}`, "F has no comment"},
		"method":      {"fs/a.go", "// T is.\ntype T int\nfunc (t *T) M() {}", "M has no comment"},
		"constant":    {"fs/a.go", `const C = 1`, "C has no comment"},
		"state":       {"fs/a.go", `var n int`, "state of the package"},
		"once":        {"fs/a.go", `var f = sync.OnceValue(g)`, "state of the package"},
		"assigned":    {"fs/a.go", "var list = []int{1}\nfunc f() { list[0] = 2 }", "list is changed"},
		"no package":  {"fs/a.go", ``, "the package has no comment"},
		"good errors": {"fs/a.go", "// ErrX is.\nvar ErrX = errors.New(\"\")\nvar re = regexp.MustCompile(`a`)", ""},
		"good main":   {"cmd/kmsfs/main.go", `func main() { os.Exit(1) }`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			head := "// Package x is.\npackage x\n"
			if name == "no package" {
				head = "package x\n"
			}
			if strings.HasPrefix(c.path, "cmd") {
				head = "// Command x is.\npackage main\n"
			}
			found := check(filepath.Dir(c.path), []source{parse(t, c.path, head+c.src)})
			switch {
			case c.want == "" && len(found) > 0:
				t.Errorf("found %q", found)
			case c.want != "" && (len(found) != 1 || !strings.Contains(found[0], c.want)):
				t.Errorf("found %q, want one with %q", found, c.want)
			}
		})
	}
}

// TestWords holds that no file speaks of the place or the tools it was written with.
func TestWords(t *testing.T) {
	// In halves, so that this file holds none of them.
	words := []string{"/wo" + "rk/", "/ro" + "ot/go", "clau" + "de", "anthro" + "pic", "open" + "ai", "chat" + "gpt",
		"copi" + "lot", "language " + "model", "ai-gen" + "erated", "this ses" + "sion", "the bri" + "ef", "sub" + "agent"}
	seen := 0
	files(t, func(path string) {
		b, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(b) {
			return
		}
		seen++
		text := strings.ToLower(path + "\n" + string(b))
		for _, w := range words {
			if i := strings.Index(text, w); i >= 0 {
				t.Errorf("%s: %q in line %d", path, w, strings.Count(text[:i], "\n"))
			}
		}
	})
	if seen < 20 {
		t.Errorf("only %d files were read", seen)
	}
}

// TestCommands holds that the README tells people to install and to run exactly what .ci/run does.
func TestCommands(t *testing.T) {
	script, err := os.ReadFile("../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(script)), "\n")
	packages := ""
	for _, line := range lines {
		if p, ok := strings.CutPrefix(line, "packages='"); ok {
			packages = strings.TrimSuffix(p, "'")
		}
	}
	test := lines[len(lines)-1]
	if packages == "" || !strings.HasPrefix(test, "go test ") {
		t.Fatalf(".ci/run: packages %q, last line %q", packages, test)
	}
	for _, want := range []string{"apt-get install -y " + packages, test} {
		if !strings.Contains(string(readme), want) {
			t.Errorf("README.md does not have %q, as .ci/run does", want)
		}
	}
}
