package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// unpack returns an archive's files by name.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has the mode %o", h.Name, h.Mode)
		}
		files[h.Name] = string(content)
	}
}

func TestBundle(t *testing.T) {
	b := &Bundle{Name: "had-support", At: time.Unix(1_800_000_000, 0), List: List{SchemaVersion: 1, About: []string{"Of alpha."}}}
	b.Add("a/small.txt", "hactl status", []byte("all is well\n"))
	long := bytes.Repeat([]byte("0123456789abcde\n"), MostOfOne/16+10)
	b.Add("a/long.txt", "hactl history", append(long, "the newest\n"...))
	b.Miss("a/none.txt", "nobody knows")
	archive, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive)
	if got := files["had-support/a/small.txt"]; got != "all is well\n" {
		t.Errorf("small.txt holds %q", got)
	}
	got := files["had-support/a/long.txt"]
	if len(got) > MostOfOne || !strings.HasPrefix(got, "0123") || !strings.HasSuffix(got, "\nthe newest\n") {
		t.Errorf("of the long one %d bytes are kept, from %.20q on", len(got), got)
	}
	var list List
	if err := json.Unmarshal([]byte(files["had-support/manifest.json"]), &list); err != nil {
		t.Fatal(err)
	}
	if f := list.Files[1]; f.Bytes != len(got) || f.CutBytes+f.Bytes != len(long)+len("the newest\n") {
		t.Errorf("the list says %+v of the long one", f)
	}
	for _, words := range []string{"Of alpha.", "a/small.txt", "without its first", "a/none.txt", "nobody knows"} {
		if !strings.Contains(files["had-support/README.txt"], words) {
			t.Errorf("README.txt doesn't say %q:\n%s", words, files["had-support/README.txt"])
		}
	}
}

// However much there is, a bundle stays one that can be sent, and says what it lacks.
func TestBundleIsBounded(t *testing.T) {
	b := &Bundle{}
	one := bytes.Repeat([]byte("x\n"), MostOfOne/2)
	for range mostOfAll/MostOfOne + 2 {
		b.Add("x", "x", one)
	}
	if b.size > mostOfAll {
		t.Errorf("it holds %d bytes", b.size)
	}
	if last := b.List.Files[len(b.List.Files)-1]; last.Bytes != 0 || last.CutBytes != MostOfOne {
		t.Errorf("the list says %+v of the last", last)
	}
}

const policyText = `# the old IPMI password was MARK0
vip "web" { address = "192.0.2.10" }
fence {
  methods = ["agent"]
  agent "alpha" {
    program = "fence_ipmilan"
    options = {
      ip            = "10.0.9.11" /* MARK1
      MARK1 */
      password_file = "/etc/had/secrets/ipmi"
      "passwd"      = "MARK2"
    }
  }
}
volume "v" { options = ["noatime", "credentials=/etc/had/secrets/cifs"] }
reconnect_token "afp" {
  location = "/srv/token/AFP.conf"
}
notify "webhook" "chat" { url = "https://chat.example.org/hook/MARK3/MARK4?a=MARK5" }
notify "email" "ops" {
  password_file = "/etc/had/secrets/smtp"
  ca_file       = "/etc/had/mail-ca.pem"
}
check "http" "site" { url = "http://127.0.0.1/healthz?key=MARK6" }
sync "pages" { command = ["rsync", "--password", "MARK7", "rsync://joe:MARK8@h/x"] }
`

func TestReadConfig(t *testing.T) {
	c := ReadConfig(policyText)
	if strings.Contains(c.Text, "MARK") {
		t.Errorf("it still holds secrets:\n%s", c.Text)
	}
	if want := strings.Count(policyText, "\n"); strings.Count(c.Text, "\n") != want {
		t.Errorf("its lines have other numbers:\n%s", c.Text)
	}
	for _, kept := range []string{`vip "web" { address = "192.0.2.10" }`, `"https://chat.example.org/(secret)"`, `password_file = "/etc/had/secrets/ipmi"`, `"http://127.0.0.1/healthz?(secret)"`} {
		if !strings.Contains(c.Text, kept) {
			t.Errorf("%s is gone:\n%s", kept, c.Text)
		}
	}
	slices.Sort(c.Files)
	if want := []string{"/etc/had/secrets/cifs", "/etc/had/secrets/ipmi", "/etc/had/secrets/smtp", "/srv/token/AFP.conf"}; !slices.Equal(c.Files, want) {
		t.Errorf("the files with secrets are %q, want %q", c.Files, want)
	}
	slices.Sort(c.Secrets)
	if want := []string{"MARK2", "hook/MARK3/MARK4?a=MARK5"}; !slices.Equal(c.Secrets, want) {
		t.Errorf("the secrets in it are %q, want %q", c.Secrets, want)
	}
	if c.Values["vip.web.address"] != "192.0.2.10" || c.Labels["vip"] != "web" {
		t.Errorf("its values are %v, its labels %v", c.Values, c.Labels)
	}
}

// What can't be read is no less secret.
func TestReadConfigOfNonsense(t *testing.T) {
	for _, text := range []string{"password = \"MARK\" {{{", "# MARK\n}}", "password: MARK\n", ""} {
		if c := ReadConfig(text); strings.Contains(c.Text, "MARK") {
			t.Errorf("%q becomes %q", text, c.Text)
		}
	}
}
