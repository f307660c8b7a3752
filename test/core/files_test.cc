// Files that are written whole: what they replace, where links lead, devices, and what is left after a failure.
#include "core/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "core/writable.h"
#include "longstride/error.h"

namespace longstride::core {
namespace {

namespace fs = std::filesystem;

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("longstride-files-" + std::to_string(getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string text(const std::string& name) const {
    std::ifstream file(root_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  unsigned mode(const std::string& name) const {
    struct stat found = {};
    EXPECT_EQ(stat((root_ / name).c_str(), &found), 0);
    return found.st_mode & 07777;
  }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(root_), fs::directory_iterator()));
  }
  fs::path root_;
};

TEST_F(FilesTest, KeepTheModeOfWhatTheyReplace) {
  write_file(root_ / "a", "one");
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(mode("a"), 0666u & ~mask);
  ASSERT_EQ(chmod((root_ / "a").c_str(), 0640), 0);
  write_file(root_ / "a", "two");
  EXPECT_EQ(text("a"), "two");
  EXPECT_EQ(mode("a"), 0640u);
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FilesTest, FollowLinksAlsoToWhatIsNotThere) {
  fs::create_directory(root_ / "far");
  fs::create_symlink("far/file", root_ / "link");
  fs::create_symlink("link", root_ / "second");
  for (const char* words : {"first", "again"}) {
    write_file(root_ / "second", words);
    EXPECT_EQ(text("far/file"), words);
    EXPECT_TRUE(fs::is_symlink(root_ / "second"));
    EXPECT_TRUE(fs::is_symlink(root_ / "link"));
  }
}

TEST_F(FilesTest, WriteToDevicesAndPipes) {
  EXPECT_NO_THROW(write_file("/dev/null", "gone"));
  EXPECT_THROW(write_file("/dev/full", "no room"), std::runtime_error);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  write_file("/proc/self/fd/" + std::to_string(ends[1]), "through");
  char got[16] = {};
  EXPECT_EQ(read(ends[0], got, sizeof got), 7);
  EXPECT_STREQ(got, "through");
  close(ends[0]);
  close(ends[1]);
}

TEST_F(FilesTest, LeaveNothingWithoutACommit) {
  write_file(root_ / "a", "kept");
  {
    OutputFile file(root_ / "a");
    file.write("half", 4);
  }
  EXPECT_EQ(text("a"), "kept");
  EXPECT_THROW(OutputFile(root_ / "absent" / "b"), Error);
  EXPECT_EQ(entries(), 1u);
  EXPECT_NO_THROW(write_file(root_ / std::string(255, 'x'), "as long as a name may be"));
}

TEST_F(FilesTest, SayBeforehandWhatCannotBeWritten) {
  EXPECT_EQ(why_not_writable((root_ / "a").string()), "");
  EXPECT_NE(why_not_writable(""), "");
  EXPECT_NE(why_not_writable(root_.string()), "");
  EXPECT_NE(why_not_writable((root_ / "absent" / "b").string()), "");
  EXPECT_THROW(check_output_folder("--out", ""), Error);
  EXPECT_NO_THROW(check_output_folder("--out", (root_ / "x" / "y").string()));
  EXPECT_EQ(entries(), 0u);
}

}  // namespace
}  // namespace longstride::core
