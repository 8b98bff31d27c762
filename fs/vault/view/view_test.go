package view_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/backingtest"
	"kmsfs/fs/vault/tree/treetest"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	m.Run()
}

func TestContract(t *testing.T) {
	backingtest.Run(t, func(t *testing.T) backing.Dir { return treetest.Vault(t) }, "lock", "lock and wait", "use")
}
