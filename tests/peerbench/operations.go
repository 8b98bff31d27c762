package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	mib        = 1 << 20
	block      = 4096
	smallFiles = 5000
)

// work is what the operations need to know.
type work struct {
	ctx       context.Context
	size      int    // of the large files, MiB
	tree, tar string // the tree's name, and the archive that holds it
	noise     []byte // 1 MiB
}

// noise is 1 MiB that does not compress.
func noise() []byte {
	b := make([]byte, mib)
	_, _ = rand.Read(b) // never fails
	return b
}

// operations are in the order in which they build on each other.
func operations() []operation {
	return []operation{
		{"seqwrite", anyhow, func(w *work, d string) error { return w.sequential(d+"/big", w.noise) }},
		{"seqwrite4k", anyhow, func(w *work, d string) error { return w.sequential(d+"/big4k", w.noise[:block]) }},
		{"seqread_cold", cold, (*work).readBig},
		{"seqread_warm", warm, (*work).readBig},
		{"randread4k_cold", cold, (*work).randomRead},
		{"randwrite4k_cold", cold, func(w *work, d string) error { return w.randomWrite(d, 4000, false) }},
		{"randwrite4k_fsync", anyhow, func(w *work, d string) error { return w.randomWrite(d, 400, true) }},
		{"append_small", anyhow, func(w *work, d string) error { return w.append(d+"/log2", 20_000, false) }},
		{"append_fsync", anyhow, func(w *work, d string) error { return w.append(d+"/log", 400, true) }},
		{"untar", anyhow, func(w *work, d string) error { return w.shell(d, "tar -xf "+w.tar+" && sync -f .") }},
		{"stat_cold", cold, func(w *work, d string) error { return w.shell(d, "ls -lR "+w.tree) }},
		{"stat_warm", warm, func(w *work, d string) error { return w.shell(d, "ls -lR "+w.tree) }},
		{"readall_cold", cold, (*work).readTree},
		{"readall_warm", warm, (*work).readTree},
		{"grep_warm", warm, func(w *work, d string) error { return w.shell(d, "! grep -r zzzznothing "+w.tree) }},
		{"cptree", anyhow, func(w *work, d string) error { return w.shell(d, "cp -a "+w.tree+" copy && sync -f .") }},
		{"rmtree", anyhow, func(w *work, d string) error { return w.shell(d, "rm -r copy") }},
		{"create5k", anyhow, (*work).create},
		{"unlink5k", anyhow, (*work).unlink},
		{"sqlite", anyhow, func(w *work, d string) error { return w.sqlite(d, "DELETE", 120) }},
		{"sqlite_wal", anyhow, func(w *work, d string) error { return w.sqlite(d, "WAL", 1000) }},
		{"git", anyhow, func(w *work, d string) error {
			return w.shell(d, "cd "+w.tree+" && git init -q . && git add -A . && git -c user.name=a -c user.email=a@a commit -qm x && git status")
		}},
	}
}

// with opens a file for use and closes it.
func with(path string, flags int, use func(*os.File) error) error {
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(use(f), f.Close())
}

// sequential writes a large file, p at a time, and syncs it.
func (w *work) sequential(path string, p []byte) error {
	return with(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, func(f *os.File) error {
		for range w.size * mib / len(p) {
			if _, err := f.Write(p); err != nil {
				return err
			}
		}
		return f.Sync()
	})
}

func (w *work) readBig(dir string) error {
	return with(dir+"/big", os.O_RDONLY, func(f *os.File) error {
		buf := make([]byte, mib)
		for {
			if _, err := f.Read(buf); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

func (w *work) randomRead(dir string) error {
	return with(dir+"/big", os.O_RDONLY, func(f *os.File) error {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
			return err
		}
		r, buf := mathrand.New(mathrand.NewPCG(1, 1)), make([]byte, block)
		for range 3000 {
			if _, err := f.ReadAt(buf, r.Int64N(int64(w.size)*mib/block)*block); err != nil {
				return err
			}
		}
		return nil
	})
}

// randomWrite overwrites n blocks of the large file, and syncs at the end or each time.
func (w *work) randomWrite(dir string, n int, each bool) error {
	return with(dir+"/big", os.O_WRONLY, func(f *os.File) error {
		r := mathrand.New(mathrand.NewPCG(2, uint64(n)))
		for range n {
			if _, err := f.WriteAt(w.noise[:block], r.Int64N(int64(w.size)*mib/block)*block); err != nil {
				return err
			}
			if each {
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					return err
				}
			}
		}
		return f.Sync()
	})
}

// append appends n times 200 bytes, and syncs at the end or each time.
func (w *work) append(path string, n int, each bool) error {
	return with(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, func(f *os.File) error {
		for range n {
			if _, err := f.Write(w.noise[:200]); err != nil {
				return err
			}
			if each {
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					return err
				}
			}
		}
		return f.Sync()
	})
}

func (w *work) readTree(dir string) error {
	return w.shell(dir, "find "+w.tree+" -type f -print0 | xargs -0 -n 500 cat")
}

func (w *work) create(dir string) error {
	if err := os.Mkdir(dir+"/many", 0o755); err != nil {
		return err
	}
	for i := range smallFiles {
		if err := with(fmt.Sprintf("%s/many/f%05d", dir, i), os.O_CREATE|os.O_WRONLY|os.O_EXCL, func(f *os.File) error {
			_, err := f.Write(w.noise[:100])
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) unlink(dir string) error {
	for i := range smallFiles {
		if err := unix.Unlink(fmt.Sprintf("%s/many/f%05d", dir, i)); err != nil {
			return err
		}
	}
	return os.Remove(dir + "/many")
}

// sqlite inserts n rows, each a transaction.
func (w *work) sqlite(dir, mode string, n int) error {
	var sql strings.Builder
	fmt.Fprintf(&sql, "PRAGMA journal_mode=%s; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);", mode)
	for i := range n {
		fmt.Fprintf(&sql, "INSERT INTO t(b) VALUES('%s');", hex.EncodeToString(w.noise[i*40:(i+1)*40]))
	}
	cmd := exec.CommandContext(w.ctx, "sqlite3", filepath.Join(dir, mode+".db"))
	cmd.Stdin = strings.NewReader(sql.String())
	return runQuietly(cmd)
}

// shell runs a script in dir.
func (w *work) shell(dir, script string) error { return command(w.ctx, dir, "sh", "-ec", script) }

// command runs a program in dir.
func command(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	return runQuietly(cmd)
}

// runQuietly throws the output away, but tells what the program complained of if it failed.
func runQuietly(cmd *exec.Cmd) error {
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return nil
}
