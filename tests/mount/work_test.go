package mount_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
)

// job is real work: a shell script that runs in an empty directory. $SRC is a tree with everything a tree can hold,
// $TMP a plain directory. It must leave the same on every file system.
type job struct {
	name     string
	programs []string
	root     bool
	script   string
	skip     func(path string) bool // content that rightly differs
}

const gitEnv = `
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b HOME=$TMP
export GIT_AUTHOR_DATE="2020-01-01T00:00:00Z" GIT_COMMITTER_DATE="2020-01-01T00:00:00Z" GIT_CONFIG_NOSYSTEM=1
git() { command git -c pack.threads=1 -c init.defaultBranch=main -c protocol.file.allow=always \
  -c maintenance.auto=false -c gc.auto=0 -c core.fsync=all "$@"; }
`

func jobs() []job {
	return []job{
		{name: "untar", root: true, programs: []string{"tar"}, script: `
			tar --xattrs --acls -C $SRC -cf $TMP/a.tar .
			mkdir t && tar --xattrs --xattrs-include='*' --acls --numeric-owner -C t -xpf $TMP/a.tar
			tar -C t -df $TMP/a.tar
			tar --sort=name --sparse -C t -cf b.tar . && mkdir u && tar -C u -xpf b.tar && rm b.tar`},
		{name: "cp", root: true, script: `
			cp -a $SRC a && cp -a a b && cp -r --sparse=always b c && cp --reflink=auto -a c/. d
			mv a e && diff -r --no-dereference e/plain b/plain`},
		{name: "rsync", root: true, programs: []string{"rsync"}, script: `
			rsync -aHAX $SRC/ a && rsync -aHAX a/ b && rsync -aHAX --inplace --no-whole-file $SRC/ b
			test -z "$(rsync -aHAXc --delete --dry-run --itemize-changes $SRC/ b)"
			mv b/plain b/moved && rsync -aHAX --delete $SRC/ b`},
		{name: "git", programs: []string{"git"}, skip: gitLocal, script: gitEnv + `
			mkdir repo && cp -r $SRC/plain/. repo && cd repo
			git init -q && git add -A && git commit -qm one
			for i in 1 2 3 4 5; do echo line $i >> f$i; seq $((i * 5000)) > big; git add -A; git commit -qm "commit $i"; done
			git checkout -q -b side HEAD~3 && echo side > side && git add side && git commit -qm side
			git checkout -q main && git merge -q -m merge side && git tag v1
			cd .. && git clone -q repo copy && git clone -q --bare --no-local repo bare
			git -C repo gc -q --prune=now && git -C bare repack -qad && git -C copy pull -q
			for r in repo copy bare; do git -C $r fsck --full --strict; done
			git -C repo stash list && test -z "$(git -C repo status --porcelain)"`},
		{name: "go build", programs: []string{"go"}, script: `
			mkdir m tmp && cd m && cat > go.mod <<-E
			module example.com/m
			go 1.24
			E
			cat > main.go <<-E
			package main
			import "fmt"
			func main() { fmt.Println("hello") }
			E
			cat > main_test.go <<-E
			package main
			import "testing"
			func Test(t *testing.T) { main() }
			E
			export GOTMPDIR=$PWD/../tmp GOFLAGS=-trimpath GOPROXY=off
			go build -o prog . && go vet . && go test -count=1 . > /dev/null
			test "$(./prog)" = hello && go build -o prog . && rmdir ../tmp`},
		{name: "sqlite delete", programs: []string{"sqlite3"}, script: sqlite("DELETE")},
		{name: "sqlite wal", programs: []string{"sqlite3"}, script: sqlite("WAL")},
		{name: "shell", script: `
			for i in $(seq 90); do echo $i > f$i; echo more >> f$i; done
			for i in $(seq 1 3 90); do mv f$i g$i; done
			for i in $(seq 2 3 90); do ln f$i h$i; ln -s f$i s$i; rm f$i; done
			for i in $(seq 50); do mkdir -p d/$i/e; echo x > d/$i/e/x; done; rm -r d/1*
			dd if=/dev/zero of=z bs=1000 count=999 seek=5 conv=notrunc status=none
			head -c 300000 <(yes) > y; split -b 70001 y part; cat part* | cmp - y
			sort -R --random-source=y -o sorted y; sed -i s/y/zz/ sorted; truncate -s 12345 y`},
	}
}

func sqlite(mode string) string {
	return `
		sql() { sqlite3 db "$@"; }
		sql "PRAGMA journal_mode=` + mode + `; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c BLOB); CREATE INDEX i ON t(b);" > /dev/null
		for r in 1 2 3; do
			for i in $(seq 40); do echo "INSERT INTO t(b, c) VALUES('row $r $i', zeroblob($i * 100));"; done | sql
			sql "BEGIN; UPDATE t SET b = b || 'x' WHERE a % 3 = 0; ROLLBACK; DELETE FROM t WHERE a % 7 = $r;"
		done
		sql ".timeout 20000" "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO t(b) SELECT 'n' || i FROM n;"
		sql "VACUUM;" && test "$(sql 'PRAGMA integrity_check')" = ok && sql .dump > dump`
}

// gitLocal is true of what git keeps about this place: the index with inode numbers and times, and absolute paths of
// what was cloned. git fsck and git status have read them all.
func gitLocal(path string) bool {
	switch filepath.Base(path) {
	case "index", "config", "FETCH_HEAD":
		return true
	}
	return strings.Contains(path, "/logs/")
}

// sourceTree makes a tree with files of sizes at every edge and, for root, of every type and owner.
func sourceTree(t *testing.T, dir string) {
	t.Helper()
	check(t, os.MkdirAll(dir+"/plain/deep/er", 0o755), "mkdir")
	block := bytes.Repeat([]byte("kmsfs test data, not all alike: \x00\x01\x02\xfe\xff"), 40000)
	for i, size := range []int{0, 1, 100, 3967, 3968, 3969, 4096, 4097, 65536, 258047, 258048, 258049, 262144, 1 << 20} {
		path := filepath.Join(dir, "plain", []string{"", "deep", "deep/er"}[i%3], "f"+string(rune('a'+i)))
		check(t, os.WriteFile(path, block[i:i+size], 0o644), "write")
	}
	if os.Geteuid() != 0 {
		return
	}
	lab.Need(t, "setfattr", "setfacl")
	lab.Run(t, dir, "bash", "-euc", `
		umask 022; mkdir odd; cd odd
		cp ../plain/fa suid; chown 1000:1000 suid; chmod 4755 suid
		for i in 1 2 3; do echo $i > file$i; ln file$i hard$i; ln -s file$i sym$i; done
		ln -s nowhere dangling; ln -s "$(printf 'x%.0s' $(seq 700))" longlink
		mkfifo fifo; mknod null c 1 3; mknod blk b 240 7; mkdir -m 2775 sgid; mkdir -m 1777 sticky
		truncate -s 5000000 sparse; echo end >> sparse; fallocate -l 100000 allocated
		echo n > "$(printf 'n%.0s' $(seq 255))"; echo m > "$(printf 'é%.0s' $(seq 127))y"; echo x > $'new\nline \xff\xfe'
		echo x > attr; setfattr -n user.one -v 1 attr; setfattr -n user.big -v "$(printf 'v%.0s' $(seq 900))" attr
		setfattr -n trusted.t -v root attr; mkdir adir; setfattr -n user.dir -v d adir
		echo x > acl; setfacl -m u:1000:rw,g:1000:r acl; mkdir dacl; setfacl -m d:u:1000:rwx,u:65534:rx dacl
		find . -exec touch -h -d '2001-02-03 04:05:06.123456789' {} +
		cd .. && find plain -exec touch -h -d '2002-03-04 05:06:07.987654321' {} +`)
}

// TestWork does every job on a plain directory and on the mount and compares the trees, then once more after a remount.
func TestWork(t *testing.T) {
	base := lab.Backing(t, backingKind())
	src := lab.Subdir(t, base, "src", 0o755)
	sourceTree(t, src)
	modes(t, base, func(t *testing.T, m *lab.Mount) {
		plain := lab.Subdir(t, base, filepath.Base(t.Name()), 0o755)
		var finished []job
		for _, j := range jobs() {
			t.Run(j.name, func(t *testing.T) {
				lab.Need(t, j.programs...)
				if j.root {
					lab.NeedRoot(t)
				}
				want, got := lab.Subdir(t, plain, j.name, 0o755), lab.Subdir(t, m.Dir, j.name, 0o755)
				j.run(t, want, src)
				j.run(t, got, src)
				same(t, want, got, j.options())
				finished = append(finished, j)
			})
		}
		check(t, m.Remount(), "remount")
		for _, j := range finished {
			same(t, filepath.Join(plain, j.name), filepath.Join(m.Dir, j.name), j.options())
		}
	})
}

// backingKind is ext4 with room for attributes where the test may mount it.
func backingKind() string {
	if os.Geteuid() == 0 {
		return "ext4"
	}
	return "dir"
}

func (j job) options() posix.Options { return posix.Options{SkipContent: j.skip} }

func (j job) run(t *testing.T, dir, src string) {
	t.Helper()
	cmd := exec.Command("bash", "-euc", "set -o pipefail; umask 022\n"+strings.ReplaceAll(j.script, "\t", ""))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SRC="+src, "TMP="+lab.Dir(t), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in %s: %v\n%s", dir, err, out)
	}
}
