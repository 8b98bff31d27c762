package memfs_test

import (
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/backingtest"
	"kmsfs/fs/backing/memfs"
)

func TestContract(t *testing.T) {
	backingtest.Run(t, func(*testing.T) backing.Dir { return memfs.New(memfs.Config{}).Root() })
}

// What Kill and Crash return is a file system like any other.
func TestContractAfterKill(t *testing.T) {
	backingtest.Run(t, func(*testing.T) backing.Dir { return memfs.New(memfs.Config{}).Kill().Root() })
}

func TestContractAfterCrash(t *testing.T) {
	backingtest.Run(t, func(*testing.T) backing.Dir { return memfs.New(memfs.Config{}).Crash(memfs.Policy{}).Root() })
}
