package nettest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// shareSite is Samba as an example has it, with somebody who has an account.
type shareSite struct {
	*exampleSite

	text string // of a file in the share
}

// smbPatience is how long a client waits for one command.
const smbPatience = 3 * time.Second

func newShareSite(t *testing.T) *shareSite {
	t.Helper()
	needs(t, "smbd")
	needs(t, "smbclient")
	s := &shareSite{exampleSite: newExampleSite(t, "file-sharing", lab.Volume{Name: "share", FSType: "ext4"}), text: "minutes of the meeting\n"}
	for _, node := range s.owners() {
		s.does(t, node, "install -m 0644 smb.conf /etc/samba/")
		s.does(t, node, "groupadd --gid 2000 files")
		s.does(t, node, "useradd --uid 2001 --gid files --no-create-home --shell /usr/sbin/nologin ann")
		s.run(t, node, "install -d /var/log/samba /run/samba")
	}
	s.served = func(t *testing.T, _ string) error {
		got, err := s.smb(t, "get minutes -")
		if err == nil && !strings.Contains(got, s.text) {
			err = fmt.Errorf("the client read %q", got)
		}
		return err
	}
	return s
}

// smb has a client log in and do something in the share.
func (s *shareSite) smb(t *testing.T, command string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), smbPatience)
	defer cancel()
	out, err := s.Client.Exec(ctx, "smbclient", "-s", "/dev/null", "-U", "ann%PASSWORD", "//"+s.address.String()+"/files", "-c", command)
	if err != nil {
		return "", fmt.Errorf("smbclient: %w\n%s", err, out)
	}
	return out, nil
}

// put has a client write a file into the share.
func (s *shareSite) put(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	eventually(t, "a client has written "+name, func() error {
		_, err := s.smb(t, "put "+file+" "+name)
		return err
	})
}

// sid is who the server of a host says it is.
func (s *shareSite) sid(t *testing.T, host string) string {
	t.Helper()
	out := s.run(t, host, "net getlocalsid")
	_, sid, ok := strings.Cut(out, " is: ")
	if !ok {
		t.Fatalf("%s doesn't say its SID: %s", host, out)
	}
	return strings.TrimSpace(sid)
}

func TestFilesAreSharedByTheOwner(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := newShareSite(t)
	s.enact(t)
	first := s.settled(t)
	s.mounted(t, first)
	s.does(t, first, "install -d -m 0700 /srv/share/private")
	s.does(t, first, "install -d -m 2770 -g files /srv/share/files")
	s.does(t, first, "printf 'PASSWORD\\nPASSWORD\\n' | smbpasswd -s -a ann")
	s.install(t)
	s.moveOn(t, first)
	s.put(t, "minutes", s.text)
	sid := s.sid(t, s.other(first))

	for i, tr := range troubles()[:4] {
		t.Run(tr.name, func(t *testing.T) {
			s.mendAll(t)
			owner := s.ready(t)
			// Confirmed just before the trouble, and so there after it.
			name, text := fmt.Sprintf("letter-%d", i), fmt.Sprintf("to whom it may concern, %d\n", i)
			s.put(t, name, text)
			next := s.suffer(t, tr, owner)
			if got, err := s.smb(t, "get "+name+" -"); err != nil || !strings.Contains(got, text) {
				t.Errorf("after %s the client read %q: %v", tr.name, got, err)
			}
			if now := s.sid(t, next); now != sid {
				t.Errorf("%s is another server to its clients: %s, and was %s", next, now, sid)
			}
			s.put(t, "from-"+next, "still writable\n")
		})
	}

	t.Run("Samba doesn't start", func(t *testing.T) {
		s.mendAll(t)
		owner := s.ready(t)
		other := s.other(owner)
		s.run(t, other, "rm /etc/samba/smb.conf")
		s.moveTo(t, owner, other)
		s.noted(t, "PreAcq", other, hadv1.Progress_OUTCOME_FAILED)
		s.does(t, other, "install -m 0644 smb.conf /etc/samba/")
	})
	if t.Failed() {
		return
	}
	s.judgeExample(t, began)
	s.emptied(t)
}
